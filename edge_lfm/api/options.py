"""What may be asked of an answer: every option and its type, written once. Editors read it, and so does `checked`.

Ranges, and what excludes what, are checked in `requests.py` and by `SamplingOptions`; defaults stand there too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge_lfm.engine.sampling import SamplingArguments
from edge_lfm.text.documents import Document

Message = Mapping[str, Any]
Messages = list[Message]
Prompt = str | Sequence[int] | NDArray[np.integer[Any]] | Sequence[Message]
Tools = Sequence[Mapping[str, Any]]
Examples = Sequence[tuple[str, str]]
Overflow = Literal["refuse", "drop_oldest"]
Effort = Literal["low", "medium", "high"]


class TurnOptions(SamplingArguments, total=False):
    """What may be asked of one answer in a conversation, beside how it is drawn (`SamplingOptions`).

    max_tokens: the most tokens to generate; default 512. None: until the context is full.
    min_tokens: so many tokens come before a stop token or a stop text may end the answer; default 0. A grammar that is
        complete ends it in any case.
    stop: a text, or several, that ends the answer, and is not part of it.
    stop_token_ids: tokens that do the same, beside the model's own.
    ignore_eos: go on past the model's own stop tokens, to `max_tokens`.
    bad_words: texts that may not come, at the start of a word or within one: as the tokens that they are encoded to.
    tool_choice: "auto", "none", "required", or the name of the tool to be called.
    parallel_tool_calls: whether one answer may have several calls; default True.
    reasoning_budget: the most tokens that a model which thinks first may think.
    reasoning_effort: how much to think: "low", "medium" or "high", for a model whose chat template can say it; others
        think as they do, which is "medium".
    chat_template_kwargs: switches of the model's chat template, as {"enable_thinking": False}; one that it does not
        have is refused.
    schema: a JSON schema, True for any JSON object, or a class with `model_json_schema` (Pydantic), that the answer
        must satisfy.
    regex, lark, choices: an expression, a grammar, or texts that the answer must match instead.
    documents: texts to answer from: {"id", "title", "text"}, or bare texts.
    cite: ask for citations as [id]; brackets then hold ids that exist only.
    trim_documents: cut the documents to one length that fits, and say which.
    examples: (input, output) pairs that show what is wanted, as turns before the conversation.
    logprobs: tell each token's log probability, and those of so many most likely ones.
    prompt_logprobs: tell the log probabilities of the prompt's tokens too; all of them are computed anew.
    lookup: the most tokens to draft a step from what stood in the text before; default 0: none. The answer is the
        same; it comes faster where it quotes the prompt.
    max_drafts: the most tokens that a drafter (`LoadOptions.draft`) drafts in each step; 0: none. Default: as many as
        pay on this machine, and none where experts are paged. The answer is the same.
    """

    max_tokens: int | None
    min_tokens: int
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    bad_words: Sequence[str]
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool
    reasoning_budget: int | None
    reasoning_effort: Effort | None
    chat_template_kwargs: Mapping[str, Any] | None
    schema: Mapping[str, Any] | bool | type | None
    regex: str | None
    lark: str | None
    choices: Sequence[str] | None
    documents: Sequence[str | Mapping[str, Any] | Document] | None
    cite: bool
    trim_documents: bool
    examples: Examples | None
    logprobs: int | None
    prompt_logprobs: bool
    lookup: int
    max_drafts: int | None


class AnswerOptions(TurnOptions, total=False):
    """What may be asked of an answer to one prompt: all of `TurnOptions`, and what a `Session` keeps for its turns.

    system: a system message to put in front of a user's text, or of messages.
    raw: take the text as it is, without the chat template.
    tools: functions that the model may call: {"name", "description", "parameters": a JSON schema}, or in OpenAI's
        wrapping. A call that begins follows its schema to the end (with the extra `grammar`).
    overflow: what to do with messages that do not fit into the context: "refuse", or "drop_oldest".
    untrusted: whether grammars and tools come from one who may mean harm; they are then tried in a process of their
        own, which costs a tenth of a second.
    """

    system: str | None
    raw: bool
    tools: Tools | None
    overflow: Overflow
    untrusted: bool
