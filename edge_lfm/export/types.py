"""What exports may hold: types of a GGUF file's matrices, and of the activations of an ONNX graph."""

from __future__ import annotations

TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")
ACTIVATIONS = {"float32": 0, "int8": 4}
"""MatMulNBits's accuracy_level: float32 is exact; int8 rounds activations, as this project's own kernels do: faster."""
