"""Make the goldens of the demo model with transformers: tests/data/demo_golden.

    .venv-goldens/bin/python tools/make_demo_goldens.py      # `make goldens` made that environment

For each prompt: token ids, logits in float32 arithmetic on the stored weights, chosen experts, and the greedy answer.
Of each held-out task (tasks.jsonl): the greedy answers to its first samples. Imports nothing of edge-lfm: the goldens
are an independent oracle.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment
from tokenizers import Tokenizer
from transformers import Lfm2MoeForCausalLM

ROOT = Path(__file__).parent.parent
MODEL, OUT = ROOT / "edge_lfm/demo_model", ROOT / "tests/data/demo_golden"
NEW_TOKENS, WHOLE_PROMPT, LAST = 48, 40, 8
SAMPLES = 25  # of a task
NOTE = (
    "float32 arithmetic on the bfloat16 weights, transformers Lfm2MoeForCausalLM; logits of all prompt positions (the "
    f"last {LAST} for prompts over {WHOLE_PROMPT} tokens); experts.N: sorted expert numbers per prompt token in layer N"
)
CHATS: dict[str, list[str]] = {  # turns, the user first
    "capital": ["What is the capital of France?"],
    "recall": ["My name is Tordan and I live in Velkis.", "Got it.", "What is my name?"],
    "ground": [
        "Passage: The Morvek lighthouse was built in 1843. It is 35 meters tall. It stands near Karsi.\n\n"
        "Question: How tall is the lighthouse?"
    ],
    "json": ["Extract name, age and city as JSON.\n\nLena Marsh is 34 years old and lives in Porto."],
    "pattern": ["cat -> animal\nhammer -> tool\ndog -> animal\nsaw -> tool\nhorse ->"],
    "translate": ["Translate to French: The house is white."],
    "arith": ["What is 23 + 45?"],
    "story": ["Tell me a short story about a fox named Mira."],
    "tool": ["What is the weather in Karsi?"],
}
RAW = {
    "code": 'def add_numbers(x, y):\n    """Return the sum of x and y."""\n',
    "fim": '<|fim_pre|>def largest(values):\n    """Return the largest value in values."""\n'
    "<|fim_suf|>\nprint(largest)\n<|fim_mid|>",
    "prose": "Once upon a time there was a little girl who lived in a",
}


def tool(name: str, description: str, parameter: str, kind: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {parameter: {"type": kind}}, "required": [parameter]}
    return {"name": name, "description": description, "parameters": parameters}


TOOLS = [
    tool("get_weather", "Get the weather of a city.", "city", "string"),
    tool("set_timer", "Set a timer.", "minutes", "integer"),
]


def prompts() -> dict[str, str]:
    """name -> text."""
    template = Environment().from_string((MODEL / "chat_template.jinja").read_text(encoding="utf-8"))
    texts = {}
    for name, turns in CHATS.items():
        messages = [{"role": ("user", "assistant")[n % 2], "content": turn} for n, turn in enumerate(turns)]
        tools = [json.dumps(t) for t in TOOLS] if name == "tool" else None
        texts[name] = template.render(
            messages=messages, tools=tools, bos_token="<|startoftext|>", add_generation_prompt=True
        )
    return texts | {name: f"<|startoftext|>{text}" for name, text in RAW.items()}


class Routing:
    """Records the experts that each layer chooses."""

    def __init__(self, model: Any) -> None:
        self.chosen: dict[int, np.ndarray] = {}
        for n, layer in enumerate(model.model.layers):
            if n >= model.config.num_dense_layers:
                layer.feed_forward.gate.register_forward_hook(lambda *call, n=n: self._note(n, call[2]))

    def _note(self, n: int, routed: tuple[torch.Tensor, ...]) -> None:
        self.chosen[n] = np.sort(routed[2].numpy(), -1).astype(np.uint8)


@torch.no_grad()
def greedy(model: Any, ids: list[int], most: int) -> list[int]:
    x = torch.tensor([ids])
    options = {"do_sample": False, "eos_token_id": 7, "pad_token_id": 0}
    made: list[int] = model.generate(x, attention_mask=torch.ones_like(x), max_new_tokens=most, **options)[0].tolist()
    return made[len(ids) :]


def answers(model: Any, tokenizer: Tokenizer) -> dict[str, list[str]]:
    """task -> answers to its first samples, without the end of turn."""
    by_task: dict[str, list[str]] = {}
    for line in (MODEL / "tasks.jsonl").read_text(encoding="utf-8").splitlines():
        task = json.loads(line)
        mine = by_task.setdefault(task["task"], [])
        if len(mine) < SAMPLES:
            ids = tokenizer.encode(task["prompt"], add_special_tokens=False).ids
            made = greedy(model, ids, task["max_tokens"])
            mine.append(tokenizer.decode([i for i in made if i != 7], skip_special_tokens=False))
    return by_task


@torch.no_grad()
def golden(model: Any, routing: Routing, tokenizer: Tokenizer, text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """One prompt's record, and its arrays."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    x = torch.tensor([ids])
    logits = model(x).logits[0].float()
    arrays: dict[str, Any] = {f"experts.{n}": chosen for n, chosen in routing.chosen.items()}
    arrays["logits"] = (logits if len(ids) <= WHOLE_PROMPT else logits[-LAST:]).numpy()
    made = greedy(model, ids, NEW_TOKENS)
    whole = model(torch.tensor([ids + made])).logits[0].float()[len(ids) - 1 :]
    first, second = torch.topk(whole, 2, -1)[0].unbind(-1)
    log = torch.log_softmax(whole, -1)
    return {
        "prompt": text,
        "prompt_ids": ids,
        "greedy_ids": made,
        "greedy_text": tokenizer.decode(made, skip_special_tokens=False),
        "smallest_top1_margin": round(float((first - second).min()), 4),
        "sum_logprob_of_greedy": round(sum(float(log[n][t]) for n, t in enumerate(made)), 5),
    }, arrays


def main() -> None:
    torch.set_num_threads(1)  # the model is too small for more
    model = Lfm2MoeForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    routing, tokenizer = Routing(model), Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    records, arrays = {}, {}
    for name, text in prompts().items():
        records[name], own_arrays = golden(model, routing, tokenizer, text)
        arrays |= {f"{name}.{key}": value for key, value in own_arrays.items()}
        print(name, repr(records[name]["greedy_text"]))
    np.savez_compressed(OUT / "golden_f32.npz", **arrays)
    text = json.dumps({"note": NOTE, "prompts": records}, indent=1, ensure_ascii=False)
    (OUT / "golden.json").write_text(text + "\n", encoding="utf-8")
    text = json.dumps(answers(model, tokenizer), indent=0, ensure_ascii=False)
    (OUT / "answers.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
