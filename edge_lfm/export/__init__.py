"""Packed models and checkpoints in the formats of other runtimes: GGUF files and ONNX graphs."""
