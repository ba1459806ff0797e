"""Fetching a model from a Hugging Face hub.

    hub.py        names and addresses of repositories; the package huggingface_hub, and its errors as lines
    files.py      the files of a checkpoint, into a folder
    remote.py     a checkpoint whose tensors come one by one
    quantized.py  a packed model, made while its checkpoint comes

Needs the extra `hub`.
"""

from edge_lfm.pull.files import Pulled, pull
from edge_lfm.pull.quantized import pull_quantized

__all__ = ["Pulled", "pull", "pull_quantized"]
