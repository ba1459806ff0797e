"""claude, Anthropic's coding agent, at /v1/messages. With a system text of its own and without tools it sends a prompt
that the demo model can read; as an agent, one of 4,600 tokens with three tools. An answer that is cut by its length is
an error to it, and all that is wanted there."""

import json

from headless import home, run
from scenarios import ADDRESS, KEY, MODEL, QUESTION, report

ENVIRONMENT = {
    "ANTHROPIC_BASE_URL": ADDRESS,
    "ANTHROPIC_AUTH_TOKEN": KEY,
    "ANTHROPIC_MODEL": MODEL,
    "ANTHROPIC_SMALL_FAST_MODEL": MODEL,
    "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "100",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",  # else it asks for updates, and sends statistics
}
BARE = ("--tools", "", "--system-prompt", "You are helpful.")


def claude(*options, until=None):
    with home() as folder:
        return run(folder, "claude", "-p", QUESTION, *options, until=until, **ENVIRONMENT)


def chat():
    return json.loads(claude("--output-format", "json", *BARE))["result"]


def stream():
    told = claude("--output-format", "stream-json", "--include-partial-messages", "--verbose", *BARE)
    events = [line.get("event", {}) for line in map(json.loads, told.splitlines())]
    return [e["delta"]["text"] for e in events if e.get("delta", {}).get("type") == "text_delta"]


def agent():
    return claude("--output-format", "json", "--tools", "Bash,Read,Edit", until="output token maximum")


report(chat, stream, agent)
