"""cn, Continue's command line."""

import json

from headless import home, run
from scenarios import KEY, MODEL, QUESTION, V1, report

MODELS = [{"name": MODEL, "provider": "openai", "model": MODEL, "apiBase": V1, "apiKey": KEY, "roles": ["chat"]}]
CONFIG = {"name": "edge", "version": "0.0.1", "schema": "v1", "models": MODELS}


def agent():
    with home() as folder:
        (folder / "config.yaml").write_text(json.dumps(CONFIG), encoding="utf-8")  # JSON is YAML
        return run(folder, "cn", "-p", "--config", "config.yaml", QUESTION)


report(agent)
