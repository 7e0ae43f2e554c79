"""Images as an explanation sees and changes them, and the answers of a bundle to changed ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanwise.core.errors import DataError, ModelError
from scanwise.data.images import read_image
from scanwise.data.pixels import fit_to_square, plain_depth, promote
from scanwise.deploy.bundle import Bundle
from scanwise.deploy.ensemble import EnsembleBundle


@dataclass(frozen=True, eq=False)
class Subject:
    """Images that can be perturbed, of one bundle.

    `pixels` (n, h, w, c) are what the network sees: prepared, uint8. Of an ensemble they are the
    images as a data set has them, of any depth, since each member prepares them itself.
    """

    bundle: Bundle
    pixels: NDArray[Any]

    def answer(self, pixels: NDArray[Any], *, device: str = "cpu") -> NDArray[np.float64]:
        """Calibrated probabilities (m, k) of pixels like these (m, h, w, c)."""
        return self.bundle.probabilities_of(pixels, device=device)

    def with_bundle(self, bundle: Bundle) -> Subject:
        """The same images, asked of another bundle."""
        return Subject(bundle, self.pixels)

    def nothing(self) -> NDArray[np.float64]:
        """The colour (c,) that stands for "no image here": the mean of what was trained on.

        Of a pretrained network that is the mean it was normalised with, of an ensemble the mean of
        these images.
        """
        if isinstance(self.bundle, EnsembleBundle):
            return np.asarray(np.mean(self.pixels, axis=(0, 1, 2), dtype=np.float64))
        return np.array([255 * mean for mean in self.bundle.preprocessing.mean])


def subject_of_rows(bundle: Bundle, images: NDArray[Any]) -> Subject:
    """Images (n, h, w, c) as the data set that was trained on has them.

    Raises:
        DataError: If they do not fit the bundle.
        ModelError: If it is an ensemble whose members read files in different ways.
    """
    if isinstance(bundle, EnsembleBundle):
        _check_one_way(bundle)
        return Subject(bundle, np.asarray(images))
    return Subject(bundle, bundle.preprocessing.to_pixels(np.asarray(images)))


def subject_of_files(
    bundle: Bundle, paths: Sequence[str | Path]
) -> tuple[Subject | None, NDArray[np.int64], list[str]]:
    """Image files, read as `Bundle.predict` reads them.

    Returns:
        The images that could be read (None if there is none), their numbers among `paths`, and for
        each path '' or the reason why it can't be read.
    """
    if isinstance(bundle, EnsembleBundle):
        _check_one_way(bundle)
    read, rows, reasons = [], [], []
    for row, path in enumerate(paths):
        try:
            read.append(_read(bundle, Path(path)))
            rows.append(row)
            reasons.append("")
        except DataError as error:
            reasons.append(str(error))
    subject = Subject(bundle, np.stack(read)) if read else None
    return subject, np.array(rows, np.int64), reasons


def subject_of_bytes(bundle: Bundle, data: bytes) -> Subject:
    """One image file, given as its bytes, read as `Bundle.prepare` reads it.

    Raises:
        DataError: If it can't be read.
        ModelError: If it is an ensemble whose members read files in different ways.
    """
    if isinstance(bundle, EnsembleBundle):
        _check_one_way(bundle)
    return Subject(bundle, _read(bundle, data)[None])


def _read(bundle: Bundle, source: Path | bytes) -> NDArray[Any]:
    config = bundle.config
    pixels = read_image(source, page=config.page, project=config.project).pixels
    if not isinstance(bundle, EnsembleBundle):
        return bundle.preprocessing.from_image(pixels)
    first = bundle.members[0].bundle.preprocessing
    pixels = promote(plain_depth(pixels)[0], np.dtype(first.dtype))
    fitted: NDArray[Any] = fit_to_square(pixels, first.size_px, first.fit)
    first.to_pixels(fitted[None])  # channels that no member takes are refused here
    return fitted


def _check_one_way(bundle: EnsembleBundle) -> None:
    ways = {
        (each.bundle.preprocessing.size_px, each.bundle.preprocessing.fit)
        for each in bundle.members
    }
    if len(ways) > 1:
        raise ModelError(
            "the members of this ensemble take images of different sizes, so that no one map fits "
            "all; explain a member: scanwise explain BUNDLE/members/00."
        )
