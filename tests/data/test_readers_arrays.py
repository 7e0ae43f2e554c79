"""from_arrays: every form of images and targets, and the index of the first that is wrong."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from scanwise.core.errors import DataError
from scanwise.data.arrays import from_arrays

RNG = np.random.default_rng(9)
IMAGES = RNG.integers(0, 256, (6, 8, 9), np.uint8)
TARGETS = np.array([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", ">u2"])
@pytest.mark.parametrize("channels", [None, 1, 3, 5])
def test_images_stay_as_they_are(dtype: str, channels: int | None) -> None:
    shape = (6, 8, 9) if channels is None else (6, 8, 9, channels)
    images = RNG.integers(0, 256, shape).astype(dtype)
    dataset = from_arrays(images, TARGETS)
    assert dataset.images.shape == (6, 8, 9, channels or 1)
    assert dataset.images.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(dataset.images.reshape(shape), images)
    assert dataset.sample_ids[4] == "arrays#4"
    assert dataset.provenance.kind == "arrays"


@pytest.mark.parametrize("dtype", ["float64", "float16", "int64", "int16", "int8"])
def test_other_numbers_become_float32_of_the_same_values(dtype: str) -> None:
    images = RNG.integers(-100, 100, (6, 8, 9)).astype(dtype)
    dataset = from_arrays(images, TARGETS)
    assert dataset.images.dtype == np.float32
    np.testing.assert_array_equal(dataset.images[..., 0], images.astype(float))


def test_masks_become_black_and_white() -> None:
    images = from_arrays(IMAGES > 127, TARGETS).images
    np.testing.assert_array_equal(images[..., 0], (IMAGES > 127) * 255)


def test_row_hashes_tell_pixels_shape_and_depth_apart() -> None:
    images = np.stack([IMAGES[0], IMAGES[1], IMAGES[0]])
    digests = from_arrays(images, [0, 1, 0]).sha256
    assert digests[0] == digests[2] != digests[1]
    assert len(digests[0]) == len(hashlib.sha256().hexdigest())
    other = from_arrays(images.reshape(3, 9, 8), [0, 1, 0]).sha256
    assert other[0] != digests[0]
    large = RNG.integers(0, 256, (40, 120, 120, 3), np.uint8)  # in threads
    digests = from_arrays(large, np.arange(40) % 2).sha256
    assert digests[7] == from_arrays(large[7:9], [0, 1]).sha256[0]


# --- targets ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "targets",
    [
        TARGETS,
        TARGETS.astype(np.uint8),
        TARGETS.astype(float),
        TARGETS[:, None],
        TARGETS.tolist(),
        np.eye(3)[TARGETS],
        np.eye(3, dtype=bool)[TARGETS],
    ],
    ids=["int", "uint8", "float", "column", "list", "one-hot", "one-hot bool"],
)
def test_forms_of_the_same_classes(targets: object) -> None:
    dataset = from_arrays(IMAGES, targets)
    assert dataset.targets.tolist() == TARGETS.tolist()
    assert dataset.targets.dtype == np.int64
    assert dataset.class_names == ("0", "1", "2")
    assert dataset.task == "multiclass"


def test_strings_are_sorted_and_objects_of_strings_work() -> None:
    names = np.array(["b", "a", "c", "b", "a", "c"])
    for targets in (names, names.astype(object), names.tolist(), names[:, None]):
        dataset = from_arrays(IMAGES, targets)
        assert dataset.class_names == ("a", "b", "c")
        assert dataset.targets.tolist() == [1, 0, 2, 1, 0, 2]
    dataset = from_arrays(IMAGES, names, class_names=("c", "b", "a", "none"))
    assert dataset.targets.tolist() == [1, 2, 0, 1, 2, 0]
    assert dataset.class_names == ("c", "b", "a", "none")


def test_values_are_names_where_none_are_given() -> None:
    dataset = from_arrays(IMAGES, [7, 2, 7, 2, 30, 30])
    assert dataset.class_names == ("2", "7", "30")
    assert dataset.targets.tolist() == [1, 0, 1, 0, 2, 2]
    dataset = from_arrays(IMAGES, [0, 2, 0, 2, 0, 2], class_names=("x", "y", "z"))
    assert dataset.targets.tolist() == [0, 2, 0, 2, 0, 2]


def test_several_labels() -> None:
    labels = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 1, 1], [1, 1, 1], [0, 0, 1]])
    dataset = from_arrays(IMAGES, labels, class_names=("a", "b", "c"))
    assert dataset.task == "multilabel"
    np.testing.assert_array_equal(dataset.targets, labels)
    said = from_arrays(IMAGES, np.eye(3)[TARGETS], task="multilabel")
    assert said.task == "multilabel"
    assert said.targets.shape == (6, 3)


def test_ordinal() -> None:
    dataset = from_arrays(IMAGES, [1, 2, 3, 1, 2, 3], task="ordinal")
    assert dataset.task == "ordinal"
    assert dataset.class_names == ("1", "2", "3")
    with pytest.raises(DataError, match=r"ordinal levels have gaps: \[1, 2, 4\]"):
        from_arrays(IMAGES, [1, 2, 4, 1, 2, 4], task="ordinal")
    with pytest.raises(DataError, match="need class_names in rising order"):
        from_arrays(IMAGES, list("abcabc"), task="ordinal")


def test_groups() -> None:
    assert from_arrays(IMAGES, TARGETS, groups=[1, 1, 2, 2, 3, 3]).groups == tuple("112233")
    assert from_arrays(IMAGES, TARGETS, groups=list("aabbcc")).groups == tuple("aabbcc")


# --- bad input ----------------------------------------------------------------------------------


def with_pixel(value: float, row: int) -> np.ndarray:
    images = IMAGES.astype(np.float64)
    images[row, 2, 3] = value
    return images


def constant(row: int) -> np.ndarray:
    images = IMAGES.copy()
    images[row] = 17
    return images


ONE_HOT = np.eye(3)[TARGETS]


def one_hot_with(row: int, cells: list[float]) -> np.ndarray:
    targets = ONE_HOT.copy()
    targets[row] = cells
    return targets


@pytest.mark.parametrize(
    ("images", "targets", "how", "said"),
    [
        (with_pixel(np.nan, 4), TARGETS, {}, "image 4 has pixels that are NaN or infinite"),
        (with_pixel(np.inf, 2), TARGETS, {}, "image 2 has pixels that are NaN or infinite"),
        (with_pixel(1e300, 3), TARGETS, {}, "image 3 has pixels that are NaN or infinite"),
        (constant(5), TARGETS, {}, r"image 5 is constant \(every pixel is 17\)"),
        (IMAGES, TARGETS[:5], {}, "6 images, but 5 targets"),
        (IMAGES.reshape(6, -1), TARGETS, {}, r"images have shape \(6, 72\)"),
        (IMAGES[0], TARGETS, {}, r"images have shape \(8, 9\)"),
        (IMAGES[:0], TARGETS[:0], {}, "nothing to read"),
        (RNG.random((6, 3, 28, 28)), TARGETS, {}, "looks like channels first"),
        (IMAGES.astype(str), TARGETS, {}, "no intensity"),
        (IMAGES.astype(object), TARGETS, {}, "no intensity"),
        (IMAGES * 1j, TARGETS, {}, "no intensity"),
        (IMAGES, one_hot_with(3, [1, 1, 0]), {}, "target 3 sums to 2, where one-hot rows sum to 1"),
        (IMAGES, one_hot_with(1, [0, 0, 0]), {}, "target 1 sums to 0, where one-hot rows sum to 1"),
        (IMAGES, one_hot_with(2, [0.5, 0.5, 0]), {}, r"target 2 is \[0.5, 0.5, 0.0\]; 0 and 1"),
        (IMAGES, np.zeros((6, 3)), {"task": "multiclass"}, "target 0 sums to 0"),
        (IMAGES, TARGETS, {"task": "multilabel"}, r"needs targets \(n, k\)"),
        (IMAGES, [0, 1, np.nan, 0, 1, 1], {}, "target 2 is nan; whole numbers"),
        (IMAGES, [0, 1, 0.5, 0, 1, 1], {}, "target 2 is 0.5; whole numbers"),
        (IMAGES, [0] * 6, {}, "one class, '0'; two are needed"),
        (
            IMAGES,
            [0, 1, 2, 3, 1, 2],
            {"class_names": ("a", "b", "c")},
            "target 3 is 3, but 3",
        ),
        (IMAGES, [0, 1, -1, 1, 1, 2], {"class_names": ("a", "b", "c")}, "target 2 is -1"),
        (IMAGES, list("abcabx"), {"class_names": ("a", "b", "c")}, "target 5 is 'x', which is not"),
        (IMAGES, ["a", "b", "", "a", "b", "a"], {}, "target 2 is ''; a non-empty string"),
        (IMAGES, np.array(["a", None, "b"] * 2, object), {}, "target 1 is None"),
        (IMAGES, ONE_HOT, {"class_names": ("a", "b")}, "2 class names, but targets have 3"),
        (IMAGES, TARGETS, {"class_names": ("a", "a", "b")}, "a name twice"),
        (IMAGES, ONE_HOT[..., None], {}, r"targets have shape \(6, 3, 1\)"),
        (IMAGES, TARGETS, {"groups": [1, 2]}, r"groups have shape \(2,\), but there are 6"),
        (IMAGES, TARGETS, {"groups": ["a", "b", "", "a", "b", "c"]}, "group 2 is empty"),
        (IMAGES, TARGETS, {"groups": [1, 2, np.nan, 4, 5, 6]}, "group 2 is empty"),
    ],
)
def test_bad_input_names_the_first_index(
    images: object, targets: object, how: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=said) as error:
        from_arrays(images, targets, **how)
    assert isinstance(error.value, DataError)
    assert str(error.value).startswith("arrays: ")


def test_a_name_for_messages() -> None:
    with pytest.raises(DataError, match=r"^slides: 6 images"):
        from_arrays(IMAGES, TARGETS[:2], name="slides")
