"""Whether what a client's scenario gave is what it must be."""

from __future__ import annotations

from typing import Any

SCENARIOS = ("chat", "stream", "tools", "schema", "tools_with_schema", "error", "cancel", "agent")
PARIS = "The capital of France is Paris."
YES, NO_CALL = "yes", "no call"
"""NO_CALL: the model was free to call and did not, though the wire was right: a matter of the model."""


def verdict(scenario: str, told: dict[str, Any]) -> str:
    """YES, NO_CALL, or what is wrong."""
    if "failed" in told:
        return str(told["failed"])
    value = told["value"]
    if scenario == "tools" and value is None:
        return NO_CALL
    return YES if _holds(scenario, value) else f"unexpected: {value!r:.200}"


def _holds(scenario: str, value: Any) -> bool:
    match scenario:
        case "chat":
            return isinstance(value, str) and PARIS in value
        case "stream":
            return len(value) > 1 and ("".join(value) == PARIS or value[-1].startswith("{"))  # or objects that grow
        case "tools":
            return _of_texts(value, "city") or _of_texts(value, "name", "city")
        case "schema":
            return _of_texts(value, "name", "city")
        case "tools_with_schema":
            return _of_texts(value, "city") or _of_texts(value, "name", "city")
        case "error":
            return "temperature" in value or "JSON schema" in value
        case "cancel":
            return bool(value == 1)
        case "agent":
            return bool(value.strip())
    return False


def _of_texts(value: Any, *names: str) -> bool:
    return (
        isinstance(value, dict) and set(value) == set(names) and all(isinstance(text, str) for text in value.values())
    )
