"""The family DeepSeek-V3 (also R1 and V3.1, which have its shape): what its `config.json` means.

Latent attention; a few dense layers, then experts, chosen from a token's best groups, beside one that all tokens pass.

Source: transformers 5.24, `configuration_deepseek_v3.py`, `modeling_deepseek_v3.py`.
"""

from __future__ import annotations

from edge_lfm.architectures import latent, latent_gguf
from edge_lfm.architectures.afmoe_gguf import WORDS
from edge_lfm.architectures.family import Family
from edge_lfm.architectures.reader import ConfigReader
from edge_lfm.shape import Shape

SPLIT = (r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", WORDS)
"""What `tokenizer.json` splits a text by: numbers first, then scripts that have no spaces, then words."""


def read(config: ConfigReader) -> Shape:
    """The shape that a config describes.

    Raises:
        UnsupportedModelError: a value asks for something that is not implemented.
    """
    dense = config.number("first_k_dense_replace", least=0)
    sparse = [n >= dense for n in range(config.number("num_hidden_layers"))]
    return latent.read(config, sparse, eps_default=1e-6, context_default=4096)


FAMILY = Family(
    model_types=("deepseek_v3",),
    read=read,
    gguf=latent_gguf.gguf_of(
        "deepseek_v3", "DeepseekV3ForCausalLM", splitter="deepseek-v3", split=SPLIT, adds_bos=True
    ),
    names=latent.NAMES,
    drafting_layers=latent.DRAFTING_LAYERS,
)
