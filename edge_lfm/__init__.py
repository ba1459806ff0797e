"""edge-lfm: Liquid AI's LFM2 models on machines without a GPU.

    from edge_lfm import Model
    with Model.load("lfm2-24b-a2b-int4") as model:
        for text in model.stream("What is C. elegans?").texts():
            print(text, end="", flush=True)

Importing this package loads neither Numba nor the kernels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge_lfm.errors import (
    BusyError,
    CancelledError,
    CheckError,
    ContextOverflowError,
    DoesNotFitError,
    DrafterError,
    EdgeLfmError,
    GrammarError,
    IsaError,
    MissingExtraError,
    ModelFileError,
    NumericalError,
    OutputError,
    SessionFileError,
    ShuttingDownError,
    TemplateError,
    UnsupportedModelError,
    UsageError,
)

if TYPE_CHECKING:
    from edge_lfm.api import (
        AnswerOptions,
        AsyncGeneration,
        Citation,
        Completion,
        Document,
        Done,
        Event,
        Generation,
        LoadOptions,
        Model,
        Progress,
        Reasoning,
        SamplingArguments,
        SamplingOptions,
        Session,
        Shape,
        Text,
        Timings,
        TokenLogprobs,
        ToolCall,
        TurnOptions,
        csv_grammar,
        json_check,
        table_grammar,
        xml_grammar,
    )

__all__ = [
    "AnswerOptions",
    "AsyncGeneration",
    "BusyError",
    "CancelledError",
    "CheckError",
    "Citation",
    "Completion",
    "ContextOverflowError",
    "Document",
    "DoesNotFitError",
    "Done",
    "DrafterError",
    "EdgeLfmError",
    "Event",
    "Generation",
    "GrammarError",
    "IsaError",
    "LoadOptions",
    "MissingExtraError",
    "Model",
    "ModelFileError",
    "NumericalError",
    "OutputError",
    "Progress",
    "Reasoning",
    "SamplingArguments",
    "SamplingOptions",
    "Session",
    "SessionFileError",
    "Shape",
    "ShuttingDownError",
    "TemplateError",
    "Text",
    "Timings",
    "TokenLogprobs",
    "ToolCall",
    "TurnOptions",
    "UnsupportedModelError",
    "UsageError",
    "csv_grammar",
    "json_check",
    "table_grammar",
    "xml_grammar",
]
__version__: str

if not TYPE_CHECKING:  # a type checker would take every name for one that this gives

    def __getattr__(name: str) -> Any:
        """The names of `edge_lfm.api`, imported when first used."""
        if name == "__version__":
            from edge_lfm.version import VERSION

            return VERSION
        if name in __all__:
            from edge_lfm import api

            return getattr(api, name)
        raise AttributeError(f"module 'edge_lfm' has no attribute '{name}'")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
