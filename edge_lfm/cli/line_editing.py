"""Line editing of `edge-lfm chat` for `input()`: history, Tab for commands, a paste of several lines as one."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence

from edge_lfm.paths import cache_folder

_HISTORY_LINES = 1000


@contextlib.contextmanager
def line_editing(model: str, commands: Sequence[str]) -> Iterator[None]:
    """Line editing with the lines of earlier conversations with this model; where there is no readline, neither.

    Args:
        model: its name; commands: what Tab completes at the start of a line.
    """
    try:
        import readline
    except ImportError:
        yield
        return
    path = cache_folder() / "chat_histories" / (re.sub(r"[^\w.-]", "_", model) or "model")
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(_HISTORY_LINES)
    readline.set_completer_delims(" ")
    readline.set_completer(lambda text, n: completions(text, readline.get_line_buffer(), commands, n))
    for line in ("tab: complete", "set enable-bracketed-paste on"):
        readline.parse_and_bind(line)
    try:
        yield
    finally:
        readline.set_completer(None)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            readline.write_history_file(path)


def completions(text: str, line: str, commands: Sequence[str], n: int) -> str | None:
    """The n-th command that a line may begin with; None: there is no more, or it is no start of a line."""
    found = [command for command in commands if text.startswith("/") and line == text and command.startswith(text)]
    return found[n] if n < len(found) else None
