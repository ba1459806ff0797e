"""opencode, a coding agent, through its own provider for servers with OpenAI's interface."""

import json

from headless import home, run
from scenarios import MODEL, QUESTION, V1, report

MODELS = {MODEL: {"name": MODEL, "limit": {"context": 60_000, "output": 100}}}
PROVIDER = {"npm": "@ai-sdk/openai-compatible", "name": "edge", "options": {"baseURL": V1, "apiKey": "none"}}
CONFIG = {"provider": {"edge": PROVIDER | {"models": MODELS}}, "small_model": f"edge/{MODEL}"}


def agent():
    with home() as folder:
        (folder / "opencode.json").write_text(json.dumps(CONFIG), encoding="utf-8")
        return run(folder, "opencode", "run", "-m", f"edge/{MODEL}", QUESTION)


report(agent)
