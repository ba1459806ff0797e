"""Where this user's files lie. Knows no models."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where this user's caches live: `EDGE_LFM_CACHE`, else `$XDG_CACHE_HOME/edge-lfm`, else `~/.cache/edge-lfm`.

    It need not exist, nor be a place that can be written to.
    """
    explicit = os.environ.get("EDGE_LFM_CACHE")
    if explicit:
        return Path(explicit)
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "edge-lfm"
    try:
        home = Path.home()
    except RuntimeError:  # a user that the system does not know, as in some containers
        home = Path("/nonexistent")  # what Debian calls the home of users without one
    return home / ".cache" / "edge-lfm"
