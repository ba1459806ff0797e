"""What the packed layout and the compiled kernels cannot do yet, of all that a description can say.

Whoever builds one of these takes its line away here. Nothing that is refused here is ignored elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator

from edge_lfm.errors import UnsupportedModelError
from edge_lfm.kernels.spec.layout import GROUP
from edge_lfm.shape import Attention, Shape


def check_supported(shape: Shape) -> None:
    """Refuse a model that the kernels would compute wrongly.

    Raises:
        UnsupportedModelError: the first thing that they cannot do, by name.
    """
    for problem in _problems(shape):
        raise UnsupportedModelError(f"{problem}, which the kernels cannot do", hint="is config.json right?")


def _problems(shape: Shape) -> Iterator[str]:
    # The kernels read inputs in groups of 32 and heads in whole vectors.
    widths = {"the hidden size": {shape.hidden}, "an FFN's width": {layer.ffn.width for layer in shape.layers}}
    widths["a head's width"] = {attention.width for attention in shape.attentions.values()}
    for name, values in widths.items():
        yield from (f"{name} is {value}, not a multiple of {GROUP}" for value in values if value % GROUP)
    for name, kinds in (
        ("attention", set(shape.attentions.values())),
        ("short convolution", set(shape.convs.values())),
        ("router", set(shape.routers.values())),
    ):
        if len(kinds) > 1:
            yield f"the layers have {len(kinds)} kinds of {name}"
    for n, attention in shape.attentions.items():
        yield from (f"layer {n} has {problem}" for problem in _attention_problems(attention))


def _attention_problems(attention: Attention) -> Iterator[str]:
    if attention.rope is None:
        yield "attention without rotary positions"
    elif attention.rope.width != attention.width:
        yield f"rotary positions in {attention.rope.width} of a head's {attention.width} values"
    if attention.window is not None:
        yield f"attention to a window of {attention.window} positions"
