"""Paint pictures of invented blood-smear-like cells, one cell in the middle of each.

A slide has its own stain, light, focus and camera; a cell has its own size, place, turn and shape.
Colours follow the law of Beer and Lambert: what lies in the light path adds optical density in red,
green and blue. Lengths are in halves of the picture's side, so the picture spans [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float32]

# What a cell can look like, and its share of the cells; the order is that of the class index.
KINDS = ("folded", "granular", "round", "segmented")
SHARES = (0.17, 0.10, 0.28, 0.45)

_MAX_LOBES = 5
_RED_CELLS = 8
_SPECKS = 3
_CHUNK = 64  # images painted at a time: their planes stay in the processor's cache


@dataclass(frozen=True, eq=False)
class Slides:
    """How each slide was stained, lit and photographed; all fields have one row a slide."""

    nucleus: _Floats  # (s, 3) optical density in red, green, blue
    cytoplasm: _Floats  # (s, 3)
    granules: _Floats  # (s, 3)
    red_cells: _Floats  # (s, 3)
    light: _Floats  # (s, 3) white balance: brightness of the empty field
    slope: _Floats  # (s, 2) how much brighter the right and lower edge are than the middle
    vignette: _Floats  # (s,) how much darker the corners are
    crowding: _Floats  # (s,) share of the places for red cells that are taken
    magnification: _Floats  # (s,) relative to the average
    blur_px: _Floats  # (s,) at a side of 48 px
    noise: _Floats  # (s,) standard deviation, share of full scale
    jpeg_quality: _Floats  # (s,) 0 where the camera did not compress


@dataclass(frozen=True, eq=False)
class Cells:
    """Shape and place of each cell; all fields have one row a cell."""

    centre: _Floats  # (n, 2)
    radius: _Floats  # (n,)
    turn: _Floats  # (n,) radians
    stretch: _Floats  # (n,) long by short axis, square root
    lobes: _Floats  # (n, 5, 3) x, y and radius in cell radii; radius 0 where there is none
    bridge: _Floats  # (n,) thickness of the threads between lobes
    granules: _Floats  # (n,) strength in [0, 1]
    blueness: _Floats  # (n,) of the cytoplasm
    depth: _Floats  # (n,) of the nuclear stain


def paint_cells(
    kinds: NDArray[np.int64], slide_of_cell: NDArray[np.int64], *, size_px: int, seed: int
) -> NDArray[np.uint8]:
    """Paint one picture for each cell.

    Args:
        kinds: Index into `KINDS` of each cell, int (n,).
        slide_of_cell: Number of its slide, int (n,), from 0.
        size_px: Side of the pictures.
        seed: Decides everything else; the same arguments give the same pixels.

    Returns:
        RGB pictures, uint8 (n, size_px, size_px, 3).
    """
    shape_rng, slide_rng, pixel_rng = _streams(seed)
    slides = _make_slides(int(slide_of_cell.max(initial=-1)) + 1, slide_rng)
    cells = _make_cells(kinds, slides.magnification[slide_of_cell], shape_rng)
    images = np.empty((len(kinds), size_px, size_px, 3), np.uint8)
    for start in range(0, len(kinds), _CHUNK):
        part = slice(start, start + _CHUNK)
        chosen = Cells(*(getattr(cells, item.name)[part] for item in fields(Cells)))
        stained = Slides(
            *(getattr(slides, item.name)[slide_of_cell[part]] for item in fields(Slides))
        )
        images[part] = _photograph(chosen, stained, size_px, pixel_rng)
    return images


# --- Slides and cells -----------------------------------------------------------------------------


def objectives(num_slides: int, seed: int) -> tuple[str, ...]:
    """Objective that each slide is seen through in `paint_cells`: '45x', '50x' or '55x'."""
    _, slide_rng, _ = _streams(seed)
    return tuple(f"{50 * x:.0f}x" for x in _make_slides(num_slides, slide_rng).magnification)


def _streams(seed: int) -> list[np.random.Generator]:
    """Independent random numbers for shapes, slides and pixels."""
    return np.random.default_rng([seed, 1]).spawn(3)


def _make_slides(num: int, rng: np.random.Generator) -> Slides:
    """Draw the slides one after the other, so that more slides do not change the first ones."""
    drawn = [_make_slide(generator) for generator in rng.spawn(num)]
    return Slides(
        *(np.array([slide[item.name] for slide in drawn], np.float32) for item in fields(Slides))
    )


def _make_slide(rng: np.random.Generator) -> dict[str, Any]:
    strength = rng.lognormal(0, 0.16)

    def stain(*density: float) -> NDArray[np.float64]:
        return np.array(density) * strength * rng.lognormal(0, 0.07, 3)

    return {
        "nucleus": stain(0.72, 1.12, 0.42),
        "cytoplasm": stain(0.26, 0.27, 0.09),
        "granules": stain(0.14, 0.62, 0.40),
        "red_cells": stain(0.09, 0.36, 0.31),
        "light": 0.93 * rng.uniform(0.92, 1.06) * rng.lognormal(0, 0.03, 3),
        "slope": rng.uniform(-0.10, 0.10, 2),
        "vignette": rng.uniform(0.0, 0.14),
        "crowding": rng.uniform(0.35, 0.9),
        "magnification": rng.choice([0.9, 1.0, 1.1]),
        "blur_px": rng.uniform(0.3, 0.7),
        "noise": rng.uniform(0.008, 0.022),
        "jpeg_quality": rng.choice([0, 95, 88, 80]),
    }


def _make_cells(
    kinds: NDArray[np.int64], magnification: _Floats, rng: np.random.Generator
) -> Cells:
    """Draw the shape of each cell; the kinds overlap, as real ones do."""
    n = len(kinds)
    is_folded, is_granular, is_round, _ = (kinds == i for i in range(len(KINDS)))

    def between(low: float, high: float) -> NDArray[np.float64]:
        return rng.uniform(low, high, n)

    def by_kind(*values: NDArray[np.float64]) -> NDArray[np.float64]:
        folded, granular, round_, segmented = values
        return np.select([is_folded, is_granular, is_round], [folded, granular, round_], segmented)

    cell_fields = {
        "centre": rng.uniform(-0.2, 0.2, (n, 2)),
        "radius": by_kind(
            between(0.58, 0.78), between(0.50, 0.70), between(0.42, 0.64), between(0.48, 0.70)
        )
        * magnification,
        "turn": between(0, 2 * np.pi),
        "stretch": between(1.0, 1.12),
        "lobes": _make_lobes(is_folded, is_granular, is_round, rng),
        "bridge": between(0.03, 0.06),
        "granules": by_kind(
            between(0.0, 0.25), between(0.5, 1.0), between(0.0, 0.2), between(0.0, 0.36)
        ),
        "blueness": by_kind(
            between(0.7, 1.3), between(0.6, 1.1), between(0.8, 1.5), between(0.6, 1.2)
        ),
        "depth": by_kind(
            between(0.75, 1.1), between(0.8, 1.15), between(0.85, 1.2), between(0.8, 1.2)
        ),
    }
    return Cells(**{name: value.astype(np.float32) for name, value in cell_fields.items()})


def _make_lobes(
    is_folded: NDArray[np.bool_],
    is_granular: NDArray[np.bool_],
    is_round: NDArray[np.bool_],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Discs along an arc whose union is the nucleus, (n, 5, 3): x, y, radius in cell radii.

    Close discs make a bean (folded) or an oval (round), discs further apart than they are wide
    make segments.
    """
    n = len(is_folded)

    def between(low: float, high: float) -> NDArray[np.float64]:
        return rng.uniform(low, high, n)

    whole = [is_folded, is_granular, is_round]
    count = np.select(
        whole,
        [
            np.full(n, 5),
            rng.choice([2, 3], n, p=[0.75, 0.25]),
            np.full(n, 3),
        ],
        rng.choice([2, 3, 4, 5], n, p=[0.07, 0.43, 0.36, 0.14]),
    )
    radius = np.select(
        whole, [between(0.28, 0.38), between(0.27, 0.37), between(0.48, 0.76)], between(0.22, 0.32)
    )
    arc = np.select(
        whole, [between(0.40, 0.50), between(0.34, 0.48), between(0.05, 0.20)], between(0.36, 0.52)
    )
    step = np.select(
        whole,
        [between(0.55, 0.95), radius / arc * between(1.6, 2.3), between(0.2, 0.7)],
        radius / arc * between(1.9, 2.35),
    )
    place = np.arange(_MAX_LOBES) - (count[:, None] - 1) / 2
    angle = place * step[:, None] + rng.normal(0, 0.12, (n, _MAX_LOBES))
    distance = arc[:, None] * rng.lognormal(0, 0.10, (n, _MAX_LOBES))
    sizes = radius[:, None] * rng.lognormal(0, 0.10, (n, _MAX_LOBES))
    sizes[np.arange(_MAX_LOBES) >= count[:, None]] = 0
    # The arc opens to one side; bring the nucleus back towards the middle of the cell.
    x = distance * np.cos(angle) - (arc * between(0.2, 0.7))[:, None]
    return np.stack([x, distance * np.sin(angle), sizes], axis=2)


# --- Pictures -------------------------------------------------------------------------------------


def _photograph(
    cells: Cells, slides: Slides, size_px: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Light through the stain, through the lens, onto the camera: uint8 (b, s, s, 3)."""
    light = np.exp(-_density(cells, slides, size_px, rng)) * _illumination(slides, size_px)
    blur_px = slides.blur_px * rng.uniform(0.8, 1.25, len(light)) * (size_px / 48)
    noise = rng.standard_normal(light.shape, np.float32) * slides.noise[:, None, None, None]
    pictures = np.empty(light.shape, np.uint8)
    for i, image in enumerate(light):
        image = cv2.GaussianBlur(image, (0, 0), float(blur_px[i])) + noise[i]
        picture = np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
        pictures[i] = _compressed(picture, int(slides.jpeg_quality[i]))
    return pictures


def _compressed(picture: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """The picture after JPEG compression; 0 leaves it as it is."""
    if not quality:
        return picture
    data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)[..., ::-1]


def _illumination(slides: Slides, size_px: int) -> _Floats:
    """Brightness of the empty field, float32 (b, s, s, 3)."""
    x, y = _grid(size_px)
    slope_x, slope_y = slides.slope.T[:, :, None, None]
    field = 1 + slope_x * x + slope_y * y - slides.vignette[:, None, None] * (x * x + y * y) / 2
    light: _Floats = field[..., None] * slides.light[:, None, None]
    return light


def _density(cells: Cells, slides: Slides, size_px: int, rng: np.random.Generator) -> _Floats:
    """Optical density of everything in the picture, float32 (b, s, s, 3)."""
    edge = np.float32(2.0 / size_px)
    b = len(cells.radius)
    x, y = _cell_coordinates(cells, size_px, rng)
    outline = np.hypot(x, y) - 1
    # In cell radii: how far in or out of the body and of the nucleus each pixel lies.
    soft = edge / cells.radius[:, None, None]
    body = _inside(outline, soft)
    nucleus = _inside(_nucleus_distance(x, y, cells), soft) * body
    grain = _smooth_noise(b, size_px, 20, rng)
    granules = np.clip((grain - 0.15) * 2.5, 0, 1) * cells.granules[:, None, None] * body
    chromatin = 1 + 0.22 * _smooth_noise(b, size_px, 11, rng)
    plasma = (1 + 0.18 * _smooth_noise(b, size_px, 8, rng)) * cells.blueness[:, None, None]

    density = _layer((1 - 0.92 * body) * _red_cells(cells, slides, size_px, rng), slides.red_cells)
    density += _layer(body * (1 - 0.7 * nucleus) * plasma, slides.cytoplasm)
    density += _layer(granules * (1 - 0.75 * nucleus), slides.granules)
    density += _layer(
        (nucleus * cells.depth[:, None, None] + 0.75 * _specks(b, size_px, rng)) * chromatin,
        slides.nucleus,
    )
    return density


def _layer(amount: _Floats, density: _Floats) -> _Floats:
    """Amount of a stain (b, s, s) times its colour (b, 3)."""
    layer: _Floats = amount[..., None] * density[:, None, None]
    return layer


def _cell_coordinates(
    cells: Cells, size_px: int, rng: np.random.Generator
) -> tuple[_Floats, _Floats]:
    """Coordinates in cell radii, turned and stretched with the cell and slightly rubbery."""
    x, y = _grid(size_px)
    centre_x, centre_y = cells.centre.T[:, :, None, None]
    cos, sin = np.cos(cells.turn)[:, None, None], np.sin(cells.turn)[:, None, None]
    radius, stretch = cells.radius[:, None, None], cells.stretch[:, None, None]
    x, y = (x - centre_x) / radius, (y - centre_y) / radius
    warp_x, warp_y = (0.05 * _smooth_noise(len(radius), size_px, 6, rng) for _ in range(2))
    turned_x = (x * cos + y * sin) / stretch + warp_x
    turned_y = (y * cos - x * sin) * stretch + warp_y
    return turned_x, turned_y


def _nucleus_distance(x: _Floats, y: _Floats, cells: Cells) -> _Floats:
    """Distance to the outline of the nucleus, negative inside; discs melt into each other."""
    bridge = cells.bridge[:, None, None]
    total = np.full_like(x, 1e-20)
    for i in range(_MAX_LOBES):
        centre_x, centre_y, radius = cells.lobes[:, i].T[:, :, None, None]
        away = np.hypot(x - centre_x, y - centre_y) - radius
        # Far away exp() would run into numbers too small to be normal, which are slow.
        total += np.where(radius > 0, np.exp(-np.minimum(away / bridge, 40)), 0)
    distance: _Floats = -bridge * np.log(total)
    return distance


def _red_cells(cells: Cells, slides: Slides, size_px: int, rng: np.random.Generator) -> _Floats:
    """Pale-centred discs around the cell, (b, s, s); where they overlap they add up."""
    b = len(cells.radius)
    grid_x, grid_y = _grid(size_px)
    radius = (
        0.34 * slides.magnification[:, None] * rng.lognormal(0, 0.08, (b, _RED_CELLS))
    ).astype(np.float32)
    turn = rng.uniform(0, 2 * np.pi, (b, 1)) + np.arange(_RED_CELLS) * (2 * np.pi / _RED_CELLS)
    turn = turn + rng.normal(0, 0.25, turn.shape)
    distance = cells.radius[:, None] + radius * rng.uniform(0.75, 2.3, (b, _RED_CELLS))
    centre_x = (cells.centre[:, :1] + distance * np.cos(turn)).astype(np.float32)
    centre_y = (cells.centre[:, 1:] + distance * np.sin(turn)).astype(np.float32)
    present = rng.random((b, _RED_CELLS)) < slides.crowding[:, None]
    total = np.zeros((b, size_px, size_px), np.float32)
    for i in range(_RED_CELLS):
        r = radius[:, i, None, None]
        away = (
            np.hypot(grid_x - centre_x[:, i, None, None], grid_y - centre_y[:, i, None, None]) / r
        )
        pallor = np.clip(0.45 + 0.75 * away * away, 0, 1)
        total += _inside(away - 1, 2.0 / size_px / r) * pallor * present[:, i, None, None]
    return total


def _specks(b: int, size_px: int, rng: np.random.Generator) -> _Floats:
    """Platelets and stain dirt: a few small purple blobs anywhere, (b, s, s)."""
    grid_x, grid_y = _grid(size_px)
    place = rng.uniform(-1, 1, (b, _SPECKS, 2)).astype(np.float32)
    radius = rng.uniform(0.04, 0.13, (b, _SPECKS)).astype(np.float32)
    strength = (rng.random((b, _SPECKS)) < 0.4) * rng.uniform(0.4, 1.0, (b, _SPECKS))
    total = np.zeros((b, size_px, size_px), np.float32)
    for i in range(_SPECKS):
        r = radius[:, i, None, None]
        away = (
            np.hypot(grid_x - place[:, i, 0, None, None], grid_y - place[:, i, 1, None, None]) / r
        )
        total += _inside(away - 1, 2.0 / size_px / r) * strength[:, i, None, None].astype(
            np.float32
        )
    return total


def _grid(size_px: int) -> tuple[_Floats, _Floats]:
    """x (1, s) and y (s, 1) of the pixel centres, in [-1, 1]."""
    axis = ((np.arange(size_px) + 0.5) * (2 / size_px) - 1).astype(np.float32)
    return axis[None, :], axis[:, None]


def _inside(distance: _Floats, soft: _Floats | float) -> _Floats:
    """1 inside (negative distance), 0 outside, a smooth step of half-width `soft` between."""
    t = np.clip(0.5 - 0.5 * distance / soft, 0, 1)
    step: _Floats = t * t * (3 - 2 * t)
    return step


def _smooth_noise(b: int, size_px: int, waves: int, rng: np.random.Generator) -> _Floats:
    """Cloudy noise of about unit variance, float32 (b, s, s); `waves` spots fit along a side."""
    coarse = rng.standard_normal((waves, waves, b), np.float32)
    fine = cv2.resize(coarse, (size_px, size_px), interpolation=cv2.INTER_CUBIC)
    noise: _Floats = np.ascontiguousarray(np.moveaxis(fine.reshape(size_px, size_px, b), 2, 0))
    return noise
