"""What openai-harmony makes of chats and answers: python tools/make_harmony_goldens.py > tests/data/harmony.json

Needs openai-harmony 0.0.8, and the file `o200k_base.tiktoken` in the folder that TIKTOKEN_ENCODINGS_BASE names.
`tests/test_harmony.py` compares.
"""

from __future__ import annotations

import json
from typing import Any

from openai_harmony import (
    Author,
    Conversation,
    DeveloperContent,
    HarmonyEncodingName,
    HarmonyError,
    Message,
    Role,
    ToolDescription,
    load_harmony_encoding,
)

CALL = {"name": "weather", "arguments": {"city": "Bern <b>", "days": 2}}
OTHER = {"name": "stop", "arguments": {}}
TOOLS = [
    {
        "name": "weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
    {"name": "stop", "description": "Ends it", "parameters": {"type": "object"}},
]
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "plain": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "thinking": "A greeting.", "content": "Hello!"},
        {"role": "user", "content": "Bye\n"},
    ],
    "instructions": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    "a call": [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Weather in Bern?"},
        {"role": "assistant", "thinking": "Ask.", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": '{"c": "21 °"}'},
    ],
    "a call that was answered": [
        {"role": "user", "content": "Weather in Bern?"},
        {"role": "assistant", "thinking": "Ask.", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "21"},
        {"role": "assistant", "thinking": "Tell it.", "content": "It is 21."},
        {"role": "user", "content": "Thanks"},
    ],
    # No thoughts in the first answer: while a call is open, openai-harmony keeps them; the published template never.
    "a call after an answer": [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "Where?"},
        {"role": "user", "content": "In Bern"},
        {"role": "assistant", "thinking": "Ask.", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "21"},
        {"role": "assistant", "thinking": "Enough.", "content": "", "tool_calls": [OTHER]},
        {"role": "tool", "content": "ok"},
    ],
    "two calls in a row": [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "thinking": "Both.", "content": "", "tool_calls": [CALL, OTHER]},
        {"role": "tool", "content": "21"},
        {"role": "tool", "content": "ok"},
    ],
}
ANSWERS = [
    "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>",
    "<|channel|>commentary to=functions.x <|constrain|>json<|message|>{}<|call|>",
    " to=functions.x<|channel|>commentary <|constrain|>json<|message|>{}<|call|>",
    " to=functions.x<|channel|>commentary json<|message|>{}<|call|>",
    "<|channel|>commentary to=functions.x<|message|>{}<|call|>",
    "<|channel|>commentary to=functions.x json<|message|>{}<|call|>",
    "<|channel|>commentary to=functions.x<|constrain|>json<|message|>{}<|call|>",
    "<|channel|>commentary to=functions.x <|constrain|>json<|message|>{}<|end|>",
    "<|channel|>commentary<|message|>soon<|end|><|start|>assistant to=functions.x<|channel|>commentary json<|message|>"
    "{}<|call|>",
    "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary<|message|>soon<|end|><|start|>"
    'assistant<|channel|>commentary to=functions.x <|constrain|>json<|message|>{"a": "<|end|> é"}<|call|>',
    "<|channel|>analysis to=python code<|message|>1+1<|call|>",
    "<|message|>hi<|return|>",
    "<|channel|>final<|message|>a <b> é\n<|return|>",
    "<|channel|>weird<|message|>a<|end|>",
    "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>analysis<|message|>b<|end|><|start|>assistant"
    "<|channel|>final<|message|>c<|return|>",
    "<|channel|>analysis<|message|><|end|><|start|>assistant<|channel|>final<|message|><|return|>",
    "<|channel|>final<|message|>a<|end|>",
]
"""Texts of answers; a mark in a string of JSON is none (`_ids`)."""
ENCODING = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
MARKS = ("<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|return|>", "<|call|>")


def main() -> None:
    prompts = {name: _rendered(messages) for name, messages in CONVERSATIONS.items()}
    answers = [[text, _parsed(text)] for text in ANSWERS]
    whole = {"tools": TOOLS, "conversations": CONVERSATIONS, "prompts": prompts, "answers": answers}
    print(json.dumps(whole, indent=1, ensure_ascii=False))


def _rendered(messages: list[dict[str, Any]]) -> str:
    """A prompt without the message of the system. Tools are told wherever there is a call."""
    made, names = [], []
    front = messages[0]["content"] if messages[0]["role"] in ("system", "developer") else None
    tools = [ToolDescription.new(t["name"], t["description"], parameters=t["parameters"]) for t in TOOLS]
    if front or any("tool_calls" in m for m in messages):
        content = DeveloperContent.new()
        content = content.with_instructions(front) if front else content
        content = content.with_function_tools(tools) if any("tool_calls" in m for m in messages) else content
        made.append(Message.from_role_and_content(Role.DEVELOPER, content))
    results = [m["content"] for m in messages if m["role"] == "tool"]
    for message in messages:
        if message["role"] == "user":
            made.append(Message.from_role_and_content(Role.USER, message["content"]))
        elif message["role"] == "assistant":
            made += [_said(message["thinking"]).with_channel("analysis")] if "thinking" in message else []
            for call in message.get("tool_calls", []):
                name, text = f"functions.{call['name']}", json.dumps(call["arguments"], ensure_ascii=False)
                names.append(name)
                made.append(_said(text).with_channel("commentary").with_recipient(name).with_content_type("json"))
                result = Message.from_author_and_content(
                    Author.new(Role.TOOL, name), json.dumps(results.pop(0), ensure_ascii=False)
                )
                made.append(result.with_recipient("assistant").with_channel("commentary"))
            if "tool_calls" not in message:
                made.append(_said(message["content"]).with_channel("final"))
    ids = ENCODING.render_conversation_for_completion(Conversation.from_messages(made), Role.ASSISTANT)
    return str(ENCODING.decode(ids))


def _said(text: str) -> Message:
    return Message.from_role_and_content(Role.ASSISTANT, text)


def _parsed(text: str) -> Any:
    """Channel, recipient and text of each message; an error as text."""
    try:
        messages = ENCODING.parse_messages_from_completion_tokens(_ids(text), Role.ASSISTANT)
    except HarmonyError as error:
        return str(error)
    return [[m.channel, m.recipient, m.content[0].text] for m in messages]


def _ids(text: str) -> list[int]:
    """Token ids; what stands between double quotes is text."""
    ids = []
    for n, piece in enumerate(text.split('"')):
        piece = piece if n == 0 else f'"{piece}'
        special = set(MARKS) if n % 2 == 0 else set[str]()
        ids += ENCODING.encode(piece, allowed_special=special, disallowed_special=())
    return ids


if __name__ == "__main__":
    main()
