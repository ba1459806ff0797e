"""The tensors of a GGUF file, from those of a plan: names, shapes, and what each one holds. Knows no files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edge_lfm.architectures import GgufSpelling


def gguf_tensors(
    spelling: GgufSpelling, shapes: Mapping[str, tuple[int, ...]], layers: int, experts: int, heads: int
) -> Iterator[tuple[str, tuple[int, ...], list[str]]]:
    """Every tensor of a GGUF file: its name, its shape, and the canonical names of what it holds.

    shapes: of each tensor of the model, by its canonical name.
    """
    for name in spelling.whole:
        yield from _known(name, spelling.canonical(name, experts), shapes)
    for n in range(layers):
        for name in spelling.layer:
            yield from _known(f"blk.{n}.{name}", spelling.canonical(f"blk.{n}.{name}", experts), shapes)
        for name in spelling.heads:
            for spelt, (rows, columns), held in _known(
                f"blk.{n}.{name}", spelling.canonical(f"blk.{n}.{name}", experts), shapes
            ):
                yield spelt, (heads, rows // heads, columns), held
        for name in spelling.experts:
            held = spelling.canonical(f"blk.{n}.{name}", experts)
            if held[:1] and held[0] in shapes:
                yield f"blk.{n}.{name}", (len(held), *shapes[held[0]]), held


def _known(
    name: str, held: list[str], shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, tuple[int, ...], list[str]]]:
    shape = shapes.get(held[0])
    if shape is not None:
        # Taps are [H, 1, L] on the hub and [H, L] here.
        yield name, shape if len(shape) < 3 else (shape[0], shape[2]), held
