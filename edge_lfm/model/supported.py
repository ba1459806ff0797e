"""What the packed layout and the compiled kernels cannot do yet, of all that a description can say.

Whoever builds one of these takes its line away here. Nothing that is refused here is ignored elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator

from edge_lfm.errors import UnsupportedModelError
from edge_lfm.kernels.spec.layout import GROUP
from edge_lfm.shape import Shape


def check_supported(shape: Shape) -> None:
    """Refuse a model that the kernels would compute wrongly.

    Raises:
        UnsupportedModelError: the first thing that they cannot do, by name.
    """
    for problem in _problems(shape):
        raise UnsupportedModelError(f"{problem}, which the kernels cannot do", hint="is config.json right?")


def _problems(shape: Shape) -> Iterator[str]:
    # The kernels read inputs in groups of 32 and heads in whole vectors.
    widths = {
        "the hidden size": {shape.hidden},
        "an FFN's width": {w for layer in shape.layers for w in (layer.ffn.width, layer.ffn.shared)},
    }
    widths["a head's width"] = {attention.width for attention in shape.attentions.values()}
    for name, values in widths.items():
        yield from (f"{name} is {value}, not a multiple of {GROUP}" for value in values if value % GROUP)
    turned = {attention.rope.width for attention in shape.attentions.values() if attention.rope is not None}
    yield from (f"{width} values of a head turn, no multiple of {GROUP}" for width in turned if width % GROUP)
    if shape.latents:
        yield "attention keeps latents"
    if any(router.groups > 1 for router in shape.routers.values()):
        yield "experts are chosen by groups"
    for name, kinds in (("short convolution", set(shape.convs.values())), ("router", set(shape.routers.values()))):
        if len(kinds) > 1:
            yield f"the layers have {len(kinds)} kinds of {name}"
