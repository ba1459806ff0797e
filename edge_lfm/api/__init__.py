"""What applications embed: `Model` and `Session`, what may be asked of them, and what comes back.

Nothing else is public.

model.py         a loaded model: generate, stream, logits, budgets
session.py       a conversation: turns, undo, fork, save and restore
generation.py    an answer as it comes, for threads and for asyncio
retry.py        checking an answer, and asking again
load_options.py  which model to load, and how
options.py       what may be asked of an answer
open_model.py    what Model and Session share: files, engine, scheduler
loading.py       opening a model: does it fit, is it paged
requests.py      from what an application asks to a checked request
calling.py       tools: a grammar, names and checks
messages.py      conversations as lists of messages
fitting.py       what is done when a conversation is longer than the context
"""

from edge_lfm.api.generation import AsyncGeneration, Generation, OnEnd
from edge_lfm.api.load_options import LoadOptions
from edge_lfm.api.model import Activity, Model
from edge_lfm.api.options import AnswerOptions, TurnOptions
from edge_lfm.api.requests import MAX_TOP_LOGPROBS
from edge_lfm.api.retry import CALL_TRIES, MAX_TRIES, Check, Retry, json_check
from edge_lfm.api.session import Session
from edge_lfm.engine.answering import Request
from edge_lfm.engine.apart import run_apart
from edge_lfm.engine.events import Completion, Done, Event, Progress, Reasoning, Text, ToolCall
from edge_lfm.engine.generate import Timings
from edge_lfm.engine.sampling import SamplingArguments, SamplingOptions, TokenLogprobs
from edge_lfm.engine.scheduler import StepCounts
from edge_lfm.engine.written_forms import csv_grammar, table_grammar, xml_grammar
from edge_lfm.machine.heap import bound_heap, trim_heap
from edge_lfm.machine.thermal import temperatures
from edge_lfm.memory.paging import PagingStats
from edge_lfm.shape import Shape
from edge_lfm.text.deadline import within
from edge_lfm.text.documents import Citation, Document
from edge_lfm.text.template import ChatTemplate
from edge_lfm.text.tokenizer import Tokenizer

__all__ = [
    "CALL_TRIES",
    "MAX_TOP_LOGPROBS",
    "MAX_TRIES",
    "Activity",
    "AnswerOptions",
    "AsyncGeneration",
    "ChatTemplate",
    "Check",
    "Citation",
    "Completion",
    "Document",
    "Done",
    "Event",
    "Generation",
    "LoadOptions",
    "Model",
    "OnEnd",
    "PagingStats",
    "Progress",
    "Reasoning",
    "Request",
    "Retry",
    "SamplingArguments",
    "SamplingOptions",
    "Session",
    "Shape",
    "StepCounts",
    "Text",
    "Timings",
    "TokenLogprobs",
    "Tokenizer",
    "ToolCall",
    "TurnOptions",
    "bound_heap",
    "csv_grammar",
    "json_check",
    "run_apart",
    "table_grammar",
    "temperatures",
    "trim_heap",
    "within",
    "xml_grammar",
]
