"""What a pretrained network sees in images, for analyses that train nothing."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from scanwise.core.types import Dataset
from scanwise.models.backbones import Backbone, with_levels
from scanwise.prepare.augment import parse_augmentation
from scanwise.prepare.preprocessing import fit_preprocessing
from scanwise.prepare.rows import PixelRows
from scanwise.training.engine import make_engine
from scanwise.training.features import FeatureExtractor

SAMPLE = 8  # images on which the ways to run the network are compared


def pretrained_features(dataset: Dataset, backbone: Backbone) -> NDArray[np.float32]:
    """Features float32 (n, d) of all images, from all levels of the network, cached on disk.

    No label has a part in them. All images have one in how intensities are mapped to 8 bits, which
    is fitted on them: not for a model that is judged on some of them.
    """
    backbone = with_levels(backbone, "all")
    spec, rows = backbone.spec, np.arange(len(dataset))
    preprocessing = fit_preprocessing(dataset, rows, channels=spec.channels)
    preprocessing = preprocessing.with_source(spec.mean, spec.std, spec.name)
    pixels = PixelRows(preprocessing, dataset.images, rows)
    sample = preprocessing.normalise(torch.from_numpy(np.ascontiguousarray(pixels[:SAMPLE])))
    engine = make_engine(backbone, sample, torch.device("cpu"))
    return FeatureExtractor(spec, engine, preprocessing, parse_augmentation("none")).plain(pixels)
