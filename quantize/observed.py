"""What the inputs of one layer's matrices were: sums that a calibration adds up, a file for each layer.

`layer-N.safetensors` (of the head: `layer-head`) holds, in float32, for every matrix `squares/NAME`, the mean square of
each input column, of experts weighted by the square of their routing weight; `tokens/NAME` of experts, the sum of
those weights; `moments/NAME` of matrices that every token passes, mean products of the columns (`moments.py`); and
`chosen`, the experts of each token. `inputs-N.safetensors`, if kept, holds the inputs of layer N's experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from edge_lfm.errors import ModelFileError, OutputError
from edge_lfm.formats.safetensors import header_bytes
from edge_lfm.kernels.spec.ref import F32, I64
from edge_lfm.quantize.moments import input_name, moments_of

HEAD = "head"


def layer_path(folder: Path, layer: int | str) -> Path:
    return folder / f"layer-{layer}.safetensors"


def inputs_path(folder: Path, layer: int) -> Path:
    return folder / f"inputs-{layer}.safetensors"


def layer_name(matrix: str) -> str:
    """Where the sums of all of a layer's experts together stand."""
    before, infix, after = matrix.partition(".experts.")
    return f"{before}.experts.all.{after.split('.', 1)[1]}" if infix else matrix


@dataclass
class Sums:
    """Weighted sums over a matrix's inputs."""

    squares: Any = 0.0  # [K], float64
    moments: Any = None  # [pieces, k, k], float32, or none wanted
    weight: float = 0.0

    def add(self, x: F32, weight: F32 | None = None) -> None:
        if weight is None:
            self.squares = self.squares + np.einsum("tk,tk->k", x, x, dtype=np.float64)
            self.weight += len(x)
        else:
            self.squares = self.squares + np.einsum("t,tk,tk->k", weight.astype(np.float64), x, x)
            self.weight += float(weight.sum())

    def add_moments(self, x: F32) -> None:
        self.moments = moments_of(x) if self.moments is None else self.moments + moments_of(x)

    def arrays(self, name: str) -> dict[str, F32]:
        """As they are kept, by name."""
        scale = 1 / max(self.weight, 1e-30)
        kept = {f"squares/{name}": np.asarray(self.squares * scale, np.float32)}
        if ".experts." in name:
            kept[f"tokens/{name}"] = np.array([self.weight], np.float32)
        if self.moments is not None:
            kept[f"moments/{name}"] = (self.moments * np.float32(scale)).astype(np.float32)
        return kept


@dataclass
class Observed:
    """An observer of `StreamedModel` for one layer, or the head; tokens come in parts.

    keep: the file that takes the inputs of the layer's experts, or None.
    """

    keep: InputsFile | None = None
    sums: dict[str, Sums] = field(default_factory=dict)
    chosen: list[I64] = field(default_factory=list)

    def matrix(self, name: str, x: F32) -> None:
        sums = self.sums.setdefault(name, Sums())
        sums.add(x)
        if input_name(name) == name:
            sums.add_moments(x)

    def routed(self, layer: int, x: F32, chosen: I64, weight: F32) -> None:
        self.chosen.append(chosen)
        if self.keep is not None:
            self.keep.append(x, chosen, weight)

    def expert(self, layer: int, expert: int, x: F32, gated: F32, weight: F32) -> None:
        at, power = f"model.layers.{layer}.feed_forward.experts", np.square(weight)
        for name, values in (("w1", x), ("w2", gated)):
            for whose in (str(expert), "all"):
                self.sums.setdefault(f"{at}.{whose}.{name}.weight", Sums()).add(values, power)

    def save(self, path: Path) -> None:
        """Write the layer's file.

        Raises:
            ModelFileError: something was not finite.
            OutputError: it cannot be written.
        """
        arrays: dict[str, NDArray[Any]] = {}
        for name, sums in self.sums.items():
            if not np.isfinite(sums.squares).all():
                raise ModelFileError(
                    f"the inputs of {name} are not finite", hint="are the checkpoint's weights whole, and its config?"
                )
            arrays |= sums.arrays(name)
        if self.chosen:
            chosen = np.concatenate(self.chosen)
            arrays["chosen"] = chosen.astype(np.uint8 if chosen.max() < 256 else np.int64)
        save(arrays, path)


class InputsFile:
    """`inputs-N.safetensors`, written part by part: `x` float16 [T, H], `chosen` [T, k], `weight` float32 [T, k]."""

    def __init__(self, path: Path, tokens: int, hidden: int, experts: int, top_k: int) -> None:
        few = experts <= 256
        entries = [
            ("x", "F16", (tokens, hidden)),
            ("chosen", "U8" if few else "U32", (tokens, top_k)),
            ("weight", "F32", (tokens, top_k)),
        ]
        head, self._offsets = header_bytes(entries, {})
        self._types: tuple[np.dtype[Any], ...] = (
            np.dtype(np.float16),
            np.dtype(np.uint8 if few else np.uint32),
            np.dtype(np.float32),
        )
        self._path, self._tokens = path, 0
        with writing(path):
            path.write_bytes(head)

    def append(self, x: F32, chosen: I64, weight: F32) -> None:
        arrays: tuple[NDArray[Any], ...] = (x, chosen, weight)
        with writing(self._path), self._path.open("r+b") as file:
            for at, dtype, values in zip(self._offsets, self._types, arrays, strict=True):
                file.seek(at + self._tokens * values.shape[1] * dtype.itemsize)
                file.write(np.ascontiguousarray(values, dtype).data)
        self._tokens += len(x)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what a full disk raises into an `OutputError`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{path} cannot be written: {error}", hint="free some disk space") from None


def save(arrays: Mapping[str, NDArray[Any]], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file.

    Raises:
        OutputError: it cannot be written.
    """
    with writing(path):
        save_file(dict(arrays), path, metadata)
