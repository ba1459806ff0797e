"""Initializers of an ONNX model in external files: written as they come, in shards below 2 GB.

Knows no graph. Names of the files are those that transformers.js looks for.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edge_lfm.model.onnx_model import GRAPH

MAX_SHARD_BYTES = (1 << 31) - (1 << 20)
_ALIGNMENT = 4096  # onnxruntime maps what begins on a page
_INLINE_BYTES = 1024
DATA_FILE = f"{GRAPH}_data"


class ExternalData:
    """Writes arrays beside `model.onnx` and describes them as TensorProtos; a context manager."""

    def __init__(self, folder: Path, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
        self.folder, self.most = folder, max_shard_bytes
        self.files: list[str] = []
        self.nbytes = 0
        self._file: BinaryIO | None = None

    def add(self, name: str, array: NDArray[Any]) -> Any:
        """The TensorProto of an array; one of more than a kilobyte goes into the current shard, or a new one."""
        import onnx

        if array.nbytes <= _INLINE_BYTES:
            return onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)
        file = self._shard(array.nbytes)
        start = file.tell()
        file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        file.write(bytes(-file.tell() % _ALIGNMENT))
        self.nbytes += array.nbytes
        tensor = onnx.TensorProto(
            name=name,
            dims=array.shape,
            data_type=onnx.helper.np_dtype_to_tensor_dtype(array.dtype),
            data_location=onnx.TensorProto.EXTERNAL,
        )
        for key, value in (("location", self.files[-1]), ("offset", start), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor

    def _shard(self, nbytes: int) -> BinaryIO:
        """The file that takes so many bytes more."""
        if self._file is not None and self._file.tell() + nbytes > self.most:
            self._file.close()
            self._file = None
        if self._file is None:
            number = len(self.files)
            self.files.append(DATA_FILE if not number else f"{DATA_FILE}_{number}")
            self._file = (self.folder / self.files[-1]).open("wb")
        return self._file

    def __enter__(self) -> ExternalData:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
