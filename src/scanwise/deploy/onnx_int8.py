"""Weights and activations of an ONNX graph rounded to 8 bits, with ranges measured on images."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanwise.core.errors import ModelError, one_line

# Where nearly all of the time goes. Sums, pooling and softmax stay float32: rounding them costs
# accuracy and won no time where it was measured.
_ROUNDED = ("Conv", "Gemm", "MatMul")


def int8_bytes(graph: bytes, batches: Iterator[Mapping[str, NDArray[np.uint8]]]) -> bytes:
    """Static quantisation by ONNX Runtime: int8 weights by channel, uint8 activations.

    Weights keep to 7 bits: processors without VNNI add products in 16 bits, and 8-bit weights
    would overflow there, so that the same file would answer differently.

    Args:
        graph: What `onnx_export.graph_bytes` gave.
        batches: Prepared training images by input name, for the ranges of activations.

    Raises:
        ModelError: If ONNX Runtime can't round this graph.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Any:
            return next(batches, None)

    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # it advises to do what is done here
    try:
        with tempfile.TemporaryDirectory() as name:
            plain, ready, rounded = (Path(name) / f"{part}.onnx" for part in ("a", "b", "c"))
            plain.write_bytes(graph)
            quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
            quantize_static(
                str(ready),
                str(rounded),
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=list(_ROUNDED),
            )
            return rounded.read_bytes()
    except Exception as error:  # the library raises whatever it likes
        raise ModelError(
            f"ONNX Runtime can't round this network to int8 ({one_line(error)}); leave out --int8."
        ) from error
    finally:
        logger.setLevel(level)
