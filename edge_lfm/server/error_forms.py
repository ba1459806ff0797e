"""One failure in the words of each interface: what OpenAI's, Anthropic's, and Ollama's clients read."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
_OPENAI = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_ANTHROPIC = _OPENAI | {413: "request_too_large", 503: "overloaded_error"}


def error_json(path: str, status: int, message: str, param: str | None, code: str | None) -> Json:
    """An error as the clients of a route know it.

    Args:
        path: of the route; param: the field at fault; code: for programs.
    """
    if code == "context_length_exceeded" and path.startswith("/v1/messages"):
        message, param = f"prompt is too long: {message}", None  # by which Anthropic's clients know to shorten it
    named = message if param is None or param in message else f"{param}: {message}"
    if path.startswith("/api/"):
        return {"error": named}
    if path.startswith("/v1/messages"):
        kind = _ANTHROPIC.get(status, "api_error" if status >= 500 else "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": named}}
    kind = _OPENAI.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
