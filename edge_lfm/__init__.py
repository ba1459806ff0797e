"""edge-lfm: Liquid AI's LFM2 models on machines without a GPU.

    from edge_lfm import Model
    with Model.load("lfm2-24b-a2b-int4") as model:
        for text in model.stream("What is C. elegans?").texts():
            print(text, end="", flush=True)

Importing this package loads neither Numba nor the kernels.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from edge_lfm.errors import EdgeLfmError

if TYPE_CHECKING:
    from edge_lfm.api import (
        AsyncGeneration,
        Completion,
        Done,
        Generation,
        Model,
        Progress,
        Reasoning,
        Session,
        Text,
        ToolCall,
        csv_grammar,
        json_check,
        table_grammar,
        xml_grammar,
    )

__all__ = [
    "AsyncGeneration",
    "Completion",
    "Done",
    "EdgeLfmError",
    "Generation",
    "Model",
    "Progress",
    "Reasoning",
    "Session",
    "Text",
    "ToolCall",
    "csv_grammar",
    "json_check",
    "table_grammar",
    "xml_grammar",
]
try:
    __version__ = version("edge-lfm")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+checkout"


def __getattr__(name: str) -> Any:
    if name in __all__:
        from edge_lfm import api

        return getattr(api, name)
    raise AttributeError(f"module 'edge_lfm' has no attribute '{name}'")
