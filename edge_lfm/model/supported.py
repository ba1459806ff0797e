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
    widths["a latent's width"] = {a.rank for a in shape.latents.values()}
    widths["a latent query's width"] = {a.query_rank for a in shape.latents.values() if a.query_rank is not None}
    widths["a plain query's width"] = {a.plain for a in shape.latents.values()}
    widths["a head's width"] |= {a.value for a in shape.latents.values()}
    for name, values in widths.items():
        yield from (f"{name} is {value}, not a multiple of {GROUP}" for value in values if value % GROUP)
    turned = {attention.rope.width for attention in shape.keeping.values() if attention.rope is not None}
    if any(a.rank < a.rope.width for a in shape.latents.values()):
        yield "a latent is narrower than the key beside it"
    yield from (f"{width} values of a head turn, no multiple of {GROUP}" for width in turned if width % GROUP)
    if len(set(shape.latents.values())) > 1:
        yield "the layers have several kinds of latent attention"
    for name, kinds in (("short convolution", set(shape.convs.values())), ("router", set(shape.routers.values()))):
        if len(kinds) > 1:
            yield f"the layers have {len(kinds)} kinds of {name}"
