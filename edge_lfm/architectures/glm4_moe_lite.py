"""The family of GLM-4.7-Flash: what its `config.json` means.

The layers of DeepSeek-V3 at the size of a laptop: latent attention, a dense layer, then experts without groups.

Source: transformers 5.24, `configuration_glm4_moe_lite.py`, `modeling_glm4_moe_lite.py`.
"""

from __future__ import annotations

from edge_lfm.architectures import latent, latent_gguf
from edge_lfm.architectures.family import Family
from edge_lfm.architectures.reader import ConfigReader
from edge_lfm.shape import Shape

_DENSE, _SPARSE = "dense", "sparse"
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""What `tokenizer.json` splits a text by."""


def read(config: ConfigReader) -> Shape:
    """The shape that a config describes.

    Raises:
        UnsupportedModelError: a value asks for something that is not implemented.
    """
    return latent.read(config, _sparse(config), eps_default=1e-5, context_default=202752)


def _sparse(config: ConfigReader) -> list[bool]:
    """Of each layer, whether it has experts."""
    count, types = config.number("num_hidden_layers"), config.raw.get("mlp_layer_types")
    dense = config.number("first_k_dense_replace", default=1, least=0)
    by_count = [n >= dense for n in range(count)]
    if types is None:
        return by_count
    if not isinstance(types, list) or len(types) != count or not set(types) <= {_DENSE, _SPARSE}:
        raise config.refuse(f"mlp_layer_types must be a list of num_hidden_layers = {count} names, dense or sparse")
    sparse = [kind == _SPARSE for kind in types]
    if config.raw.get("first_k_dense_replace") is not None and sparse != by_count:
        raise config.refuse(f"mlp_layer_types says other layers than first_k_dense_replace {dense}")
    return sparse


FAMILY = Family(
    model_types=("glm4_moe_lite",),
    read=read,
    gguf=latent_gguf.gguf_of(
        "glm4_moe_lite",
        "Glm4MoeLiteForCausalLM",
        splitter="glm4",
        split=(SPLIT,),
        adds_bos=False,
        whole_words_first=True,
    ),
    names=latent.NAMES,
    drafting_layers=latent.DRAFTING_LAYERS,
)
