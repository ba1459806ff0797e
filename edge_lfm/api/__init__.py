"""What applications embed: `Model` and `Session`, the events of an answer, and the whole answer.

model.py       a loaded model: generate, stream, logits, budgets
session.py     a conversation: turns, undo, fork, save and restore
events.py      what comes while an answer is made
generation.py  an answer as it comes, for threads and for asyncio
answering.py   one request, step by step, on the engine thread
requests.py    from what an application asks to a checked request
asking_again.py  checking an answer, and asking again
fitting.py     what is done when a conversation is longer than the context
"""

from edge_lfm.api.asking_again import json_check
from edge_lfm.api.generation import AsyncGeneration, Generation
from edge_lfm.api.load_options import LoadOptions
from edge_lfm.api.model import Model
from edge_lfm.api.session import Session
from edge_lfm.engine.events import Completion, Done, Event, Progress, Reasoning, Text, ToolCall
from edge_lfm.engine.written_forms import csv_grammar, table_grammar, xml_grammar

__all__ = [
    "AsyncGeneration",
    "Completion",
    "Done",
    "Event",
    "Generation",
    "LoadOptions",
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
