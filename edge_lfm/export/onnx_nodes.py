"""Nodes, initializers and constants of an ONNX graph under construction: how its parts are added, not which.

Knows how packed matrices are multiplied in onnxruntime; knows no layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.errors import MissingExtraError
from edge_lfm.export.onnx_data import ExternalData
from edge_lfm.export.onnx_weights import Blocks, to_blocks
from edge_lfm.export.source import ExportSource
from edge_lfm.kernels.spec.ref import F32, Quantized

MICROSOFT = "com.microsoft"
FLOAT, INT64, INT32 = 1, 7, 6


def onnx_package() -> ModuleType:
    """The package onnx.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise MissingExtraError("ONNX models need the package onnx", extra="onnx") from None
    return onnx


class GraphNodes:
    """Collects nodes and initializers; methods return the name of what they compute. `accuracy`: MatMulNBits's."""

    def __init__(self, source: ExportSource, data: ExternalData, accuracy: int) -> None:
        self.source, self.shape, self.data, self.accuracy = source, source.shape, data, accuracy
        self.helper = onnx_package().helper
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.constants: dict[str, str] = {}
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def matmul(self, name: str, x: str, bias: str = "") -> str:
        """x times a matrix transposed."""
        if not self.source.scheme(name).quantized:
            weights = self.initializer(f"{name}.transposed", self.source.values(name).T)
            out = self.node("MatMul", [x, weights])
            return self.node("Add", [out, bias]) if bias else out
        blocks = self.blocks(name)
        return self.node(
            "MatMulNBits",
            [x, f"{name}.data", f"{name}.scales", *(["", "", bias] if bias else [])],
            domain=MICROSOFT,
            K=blocks.cols,
            N=len(blocks.data),
            bits=blocks.bits,
            block_size=blocks.block,
            accuracy_level=self.accuracy,
        )

    def blocks(self, name: str) -> Blocks:
        """A matrix, whose data and scales become initializers when it is first used."""
        blocks = self.read_blocks(name)
        if f"{name}.data" not in self.constants:
            self.constants[f"{name}.data"] = name
            self.initializer(f"{name}.data", blocks.data)
            self.initializer(f"{name}.scales", blocks.scales)
        return blocks

    def read_blocks(self, name: str) -> Blocks:
        weights = self.source.weights(name)
        assert isinstance(weights, Quantized)
        return to_blocks(weights, self.source.scheme(name))

    def bias(self, name: str) -> str:
        """A bias, or "" if the model has none of that name."""
        return self.initializer(name, self.source.values(name)) if name in self.source.tensors else ""

    def norm(self, x: str, name: str) -> str:
        weight = self.initializer(name, self.source.values(name))
        return self.node("RMSNormalization", [x, weight], axis=-1, epsilon=self.shape.eps)

    def node(self, operator: str, inputs: Sequence[str], name: str = "", domain: str = "", **attributes: Any) -> str:
        """Add a node with one output, whose name it returns."""
        output = name or f"{operator}.{len(self.nodes)}"
        node = self.helper.make_node(operator, list(inputs), [output], name=output, domain=domain, **attributes)
        self.nodes.append(node)
        return output

    def split(self, x: str, parts: int, axis: int) -> list[str]:
        outputs = [f"Split.{len(self.nodes)}.{n}" for n in range(parts)]
        self.nodes.append(self.helper.make_node("Split", [x], outputs, name=outputs[0], axis=axis, num_outputs=parts))
        return outputs

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        return self.node("Reshape", [x, self.constant(np.array(shape))])

    def initializer(self, name: str, array: NDArray[Any] | F32 | Quantized) -> str:
        assert not isinstance(array, Quantized)
        self.initializers.append(self.data.add(name, array))
        return name

    def constant(self, value: Any) -> str:
        """A small constant; equal ones are one."""
        array = np.asarray(value)
        key = f"{array.dtype}:{array.tolist()}"
        if key not in self.constants:
            self.constants[key] = self.initializer(f"constant.{len(self.constants)}", array)
        return self.constants[key]

    def declare(self, name: str, dtype: int, shape: Sequence[str | int]) -> str:
        self.inputs.append(self.helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def result(self, name: str, shape: Sequence[str | int]) -> None:
        self.outputs.append(self.helper.make_tensor_value_info(name, FLOAT, list(shape)))
