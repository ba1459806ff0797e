"""The families of models, one file each: what their config means, what their tensors are called elsewhere.

`read_shape` chooses the file by `model_type`; what it gives is all that the rest of the program reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_lfm.architectures import lfm2
from edge_lfm.architectures.reader import ConfigReader
from edge_lfm.shape import Shape

_READERS = {model_type: family.read for family in (lfm2,) for model_type in family.MODEL_TYPES}
_HINT = f"edge-lfm runs models of the types {', '.join(_READERS)}"


def read_shape(raw: Mapping[str, Any], where: str = "config.json") -> Shape:
    """The description of the model of a `config.json`; `where` stands in error messages.

    Raises:
        UnsupportedModelError: a value asks for something that is not implemented.
    """
    reader, model_type = ConfigReader(raw, where, _HINT), raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in _READERS:
        raise reader.refuse(f"model_type {model_type!r} is not implemented")
    return _READERS[model_type](reader)
