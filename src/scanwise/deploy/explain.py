"""Maps of evidence: where in an image is what speaks for a class?

Grad-CAM and occlusion sensitivity are MONAI's, integrated gradients Captum's. `explain_images` is
the door for programs; whether the maps can be trusted is measured in deploy.perturb.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scanwise.core.errors import ConfigError, DataError, ModelError, nearest
from scanwise.deploy.bundle import Bundle
from scanwise.deploy.cam_layer import Layer, MapHooks, find_layer
from scanwise.deploy.ensemble import EnsembleBundle
from scanwise.deploy.subject import Subject, subject_of_rows
from scanwise.models.parts import set_views
from scanwise.models.penultimate import alone_with

Method = Literal["gradcam", "occlusion", "integrated-gradients"]
METHODS: tuple[str, ...] = ("auto", *get_args(Method))
METHOD_NAMES: dict[str, str] = {
    "gradcam": "Grad-CAM",
    "occlusion": "occlusion",
    "integrated-gradients": "integrated gradients",
}
OCCLUDED = 0.2  # of the side, by one square
OVERLAP = 0.5  # of neighbouring squares
IG_STEPS = 32
# Single pixels stand out far above all others; with their maximum as 1 the map would look empty.
IG_TOP_PERCENT = 99.0


@dataclass(frozen=True)
class Way:
    """How the maps of a bundle are made, and why so."""

    method: Method
    why: str
    layer: Layer | None = None
    one_view: bool = False  # of several, whose mean is the answer

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the map must know."""
        notes = []
        if self.layer is not None and not self.layer.whole:
            notes.append(
                f"The answer also depends on other layers than {self.layer.name}; this map shows "
                "the part of the evidence that passes through it."
            )
        if self.one_view:
            notes.append(
                "The answer is the mean over several views of the image; this map is of the image "
                "as it is."
            )
        return tuple(notes)


@dataclass(frozen=True, eq=False)
class Explanations:
    """Maps of n images.

    Attributes:
        maps: float32 (n, h, w) in [0, 1]: how much each place speaks for the explained class; the
            strongest place of each image is 1. All 0 where nothing speaks for it.
        pixels: (n, h, w, c), what the maps lie on.
        explained: Class of each map, int (n,).
        probabilities: Of the unchanged images, (n, k).
        way: Method, layer, and why.
        map_px: Height and width of the map before it was enlarged to the image.
    """

    maps: NDArray[np.float32]
    pixels: NDArray[Any]
    explained: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    way: Way
    map_px: tuple[int, int]

    def __len__(self) -> int:
        return len(self.maps)

    def method_text(self) -> str:
        """'Grad-CAM at body.2, map 7×7 px of 28×28 px'"""
        layer = f" at {self.way.layer.name}" if self.way.layer else ""
        sizes = [f"{height}×{width} px" for height, width in (self.map_px, self.maps.shape[1:])]
        return f"{METHOD_NAMES[self.way.method]}{layer}, map {sizes[0]} of {sizes[1]}"


def explain_images(
    bundle: Bundle,
    images: NDArray[Any],
    *,
    method: str = "auto",
    class_name: str | None = None,
    device: str = "cpu",
) -> Explanations:
    """Show where in each image the evidence for its class lies.

    Args:
        bundle: A trained model; of an ensemble the members' mean is explained, by occlusion.
        images: (n, h, w) or (n, h, w, c), n > 0, of the size and type trained on.
        method: "gradcam", "occlusion", "integrated-gradients", or "auto": Grad-CAM where the
            network has a layer with a map that the whole answer comes from, else occlusion.
        class_name: Whose evidence [each image's most probable class].
        device: Where to compute.

    Raises:
        ConfigError: Unknown method or class.
        ModelError: If the method can't be used with this network; the message names one that can.
        DataError: If the images do not fit the model.

    Source:
        Selvaraju et al., ICCV 2017, arXiv:1610.02391 (Grad-CAM); Zeiler and Fergus, ECCV 2014,
        arXiv:1311.2901 (occlusion); Sundararajan et al., ICML 2017, arXiv:1703.01365 (integrated
        gradients).
    """
    given = images[..., None] if images.ndim == 3 else images
    if given.ndim != 4 or not len(given):
        raise DataError(f"images must be (n, h, w) or (n, h, w, c), n > 0, got {images.shape}.")
    way_of = check_method(method)
    chosen = None if class_name is None else class_index(bundle, class_name)
    subject = subject_of_rows(bundle, given)
    explained = None if chosen is None else np.full(len(given), chosen, np.int64)
    return explain(subject, find_way(subject, way_of), explained, device=device)


def check_method(method: str) -> str:
    """The method, if there is one of this name.

    Raises:
        ConfigError: If there is none.
    """
    if method not in METHODS:
        raise ConfigError(f"method='{method}' is unknown; {nearest(method, METHODS)}")
    return method


def class_index(bundle: Bundle, name: str) -> int:
    """Index of a class by its name.

    Raises:
        ConfigError: If the bundle has no such class.
    """
    if name not in bundle.class_names:
        raise ConfigError(f"class='{name}' is unknown; {nearest(name, bundle.class_names)}")
    return bundle.class_names.index(name)


def find_way(subject: Subject, method: str) -> Way:
    """Choose method and layer for a bundle.

    Raises:
        ModelError: If `method` can't be used with it, or its package is missing.
    """
    bundle, use = subject.bundle, "Use --method occlusion, or leave --method out."
    if isinstance(bundle, EnsembleBundle):
        why = "an ensemble's mean of probabilities has no layer and no gradient of its own"
        if method in ("auto", "occlusion"):
            return Way("occlusion", why)
        raise ModelError(
            f"--method {method} is not for this bundle: {why}. {use} A member can be explained "
            "alone: scanwise explain BUNDLE/members/00."
        )
    if method == "occlusion":
        return Way("occlusion", "asked for")
    if method == "integrated-gradients":
        _captum()
        return Way("integrated-gradients", "asked for", one_view=bundle.config.tta != "none")
    layer, why = find_layer(_network(bundle, "cpu"), _inputs(subject, "cpu")[:1])
    if layer is not None and (layer.whole or method == "gradcam"):
        return Way("gradcam", why, layer, one_view=bundle.config.tta != "none")
    if method == "gradcam":
        raise ModelError(f"--method gradcam is not for {bundle.config.architecture}: {why}. {use}")
    if layer is not None:
        why = "the head reads the maps of several layers, and Grad-CAM would show one"
        return Way("occlusion", why)
    return Way("occlusion", f"{why}, so Grad-CAM has nothing to read")


def explain(
    subject: Subject,
    way: Way,
    explained: NDArray[np.int64] | None = None,
    *,
    device: str = "cpu",
    told: Callable[[int, int], None] | None = None,
) -> Explanations:
    """Maps of all images of a subject.

    Args:
        subject: The images.
        way: From `find_way`.
        explained: Class of each map, int (n,) [the most probable one].
        device: Where to compute.
        told: Called with the number of maps done, and of all.
    """
    probabilities = subject.answer(subject.pixels, device=device)
    classes = probabilities.argmax(axis=1) if explained is None else explained
    make = {
        "gradcam": _gradcam,
        "occlusion": _occlusion,
        "integrated-gradients": _integrated_gradients,
    }[way.method](subject, way, device)
    maps = np.empty(subject.pixels.shape[:3], np.float32)
    for row, class_index in enumerate(classes.tolist()):
        maps[row] = _scaled(make(row, class_index), way.method)
        if told is not None:
            told(row + 1, len(maps))
    return Explanations(
        maps, subject.pixels, classes.astype(np.int64), probabilities, way, map_px_of(subject, way)
    )


def map_px_of(subject: Subject, way: Way) -> tuple[int, int]:
    """Height and width of a map in places that can differ."""
    height, width = subject.pixels.shape[1:3]
    if way.layer is not None:
        return way.layer.map_px
    if way.method == "integrated-gradients":
        return height, width
    return _positions(height), _positions(width)


# --- The three methods: each gives a function from (row, class) to a map, float (h, w) -----------

_MapOf = Callable[[int, int], NDArray[np.float32]]


def _gradcam(subject: Subject, way: Way, device: str) -> _MapOf:
    from monai.visualize import GradCAM

    assert way.layer is not None
    network, inputs = _network(subject.bundle, device), _inputs(subject, device)
    cam = GradCAM(
        MapHooks(network, way.layer), target_layers=way.layer.name, postprocessing=_unchanged
    )

    def of(row: int, class_index: int) -> NDArray[np.float32]:
        # One image at a time: MONAI adds the scores of a batch up over all pairs.
        entry = inputs[row : row + 1].clone().requires_grad_(True)
        found: Tensor = cam(entry * 1.0, class_idx=class_index)
        return found[0, 0].detach().cpu().float().numpy()

    return of


def _occlusion(subject: Subject, way: Way, device: str) -> _MapOf:
    """Fall of the class's log-odds where a soft square fades to the mean colour.

    Log-odds, since a probability of 1.000 hides how much it lost.
    """
    from monai.visualize import OcclusionSensitivity

    height, width = subject.pixels.shape[1:3]
    answers = _LogOdds(subject, device)
    occlude = OcclusionSensitivity(
        answers,
        mask_size=[_square(height), _square(width)],
        n_batch=64,
        verbose=False,
        mode="gaussian",
        overlap=OVERLAP,
        activate=False,
    )
    inputs = answers.inputs()

    def of(row: int, class_index: int) -> NDArray[np.float32]:
        image = inputs[row : row + 1]
        with warnings.catch_warnings(), torch.no_grad():
            # MONAI 1.6 indexes with lists, which torch still reads as it means them.
            warnings.filterwarnings("ignore", message="Using a non-tuple sequence")
            occluded, _ = occlude(image)
            whole = answers(image)[0, class_index]
        lost = whole - torch.as_tensor(occluded)[0, class_index]
        found: NDArray[np.float32] = lost.clamp(min=0).cpu().float().numpy()
        return found

    return of


def _integrated_gradients(subject: Subject, way: Way, device: str) -> _MapOf:
    """Positive part of the attributions to each pixel, from an image of the mean colour."""
    attribute = _captum()(_network(subject.bundle, device)).attribute
    inputs = _inputs(subject, device)

    def of(row: int, class_index: int) -> NDArray[np.float32]:
        image = inputs[row : row + 1].clone().requires_grad_(True)
        given: Tensor = attribute(
            image, baselines=0.0, target=class_index, n_steps=IG_STEPS, internal_batch_size=IG_STEPS
        )
        return given[0].sum(dim=0).clamp(min=0).detach().cpu().float().numpy()

    return of


class _LogOdds(nn.Module):
    """Log-odds (b, k) of images (b, c, h, w) in pixels above the mean colour: 0 is "nothing"."""

    def __init__(self, subject: Subject, device: str) -> None:
        super().__init__()
        self._subject, self._device = subject, device
        self._nothing = subject.nothing()

    def inputs(self) -> Tensor:
        above = np.asarray(self._subject.pixels, np.float64) - self._nothing
        return torch.from_numpy(above.transpose(0, 3, 1, 2).astype(np.float32))

    def forward(self, above: Tensor) -> Tensor:
        values = torch.as_tensor(above).cpu().numpy().transpose(0, 2, 3, 1) + self._nothing
        pixels = as_type(values, self._subject.pixels.dtype)
        p = self._subject.answer(pixels, device=self._device)
        odds = np.log(np.maximum(p, 1e-12)) - np.log(np.maximum(1 - p, 1e-12))
        return torch.from_numpy(odds.astype(np.float32))


def as_type(values: NDArray[np.floating], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Values rounded and held within what `dtype` can hold; float32 as it is."""
    if not np.issubdtype(dtype, np.integer):
        return values.astype(dtype)
    top = np.iinfo(dtype)
    held: NDArray[Any] = np.clip(np.rint(values), top.min, top.max).astype(dtype)
    return held


def _network(bundle: Bundle, device: str) -> nn.Module:
    """A copy that hooks and gradients may change, with nothing to train.

    It sees the image itself alone: the mean over other views has no one map.
    """
    with alone_with(bundle.model):  # no hooks of another thread's pass are copied
        network: nn.Module = copy.deepcopy(bundle.model)
    set_views(network, "none")
    return network.to(device).eval().requires_grad_(False)


def _inputs(subject: Subject, device: str) -> Tensor:
    batch = torch.from_numpy(np.ascontiguousarray(subject.pixels)).to(device)
    return subject.bundle.preprocessing.normalise(batch)


def _captum() -> Any:
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise ModelError(
            "--method integrated-gradients needs captum: pip install 'scanwise[explain]'."
        ) from error
    return IntegratedGradients


def _square(side: int) -> int:
    """Side of the square that is occluded at a time."""
    return min(side, max(2, round(OCCLUDED * side)))


def _positions(side: int) -> int:
    """Places of the square along a side."""
    step = max(1, int(_square(side) * (1 - OVERLAP)))
    return 1 + -(-(side - _square(side)) // step)


def _scaled(found: NDArray[np.float32], method: Method) -> NDArray[np.float32]:
    top = float(found.max())
    if method == "integrated-gradients":
        top = float(np.percentile(found, IG_TOP_PERCENT)) or top
    if not top > 0:
        return np.zeros_like(found)
    scaled: NDArray[np.float32] = np.clip(found / np.float32(top), 0.0, 1.0)
    return scaled


def _unchanged(maps: Tensor) -> Tensor:
    return maps
