"""Samples as text: the chat template's, in pieces that say what the model is to learn to write."""

from __future__ import annotations

import json

from demo.sample import Sample, assistant

Piece = tuple[str, bool]
"""A part of a text, and whether the assistant writes it."""


def prompt_of(sample: Sample) -> str:
    """The text up to the answer."""
    return "".join(text for text, _ in _pieces(sample, sample.messages)) + (
        "" if sample.raw_prompt is not None else "<|im_start|>assistant\n"
    )


def pieces_of(sample: Sample) -> list[Piece]:
    """The whole text, answer and end of turn included."""
    if sample.raw_prompt is not None:
        return [*_pieces(sample, []), (f"{sample.answer}<|im_end|>", True)]
    return _pieces(sample, [*sample.messages, assistant(sample.answer)])


def _pieces(sample: Sample, messages: list[dict[str, str]]) -> list[Piece]:
    if sample.raw_prompt is not None:
        return [(f"<|startoftext|>{sample.raw_prompt}", False)]
    head = [messages[0]["content"]] if messages[0]["role"] == "system" else []
    if sample.tools:
        listed = ", ".join(json.dumps(tool, ensure_ascii=False) for tool in sample.tools)
        head.append(f"List of tools: <|tool_list_start|>[{listed}]<|tool_list_end|>")
    out: list[Piece] = [("<|startoftext|>", False)]
    if head:
        out.append(("<|im_start|>system\n" + "\n".join(head) + "<|im_end|>\n", False))
    for message in messages:
        role, text = message["role"], message["content"]
        if role == "tool":
            text = f"<|tool_response_start|>{text}<|tool_response_end|>"
        if role == "assistant":
            out += [("<|im_start|>assistant\n", False), (f"{text}<|im_end|>", True), ("\n", False)]
        elif role != "system":
            out.append((f"<|im_start|>{role}\n{text}<|im_end|>\n", False))
    return out
