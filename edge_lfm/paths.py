"""Where this user's files lie. Knows no models."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where this user's caches live: `EDGE_LFM_CACHE`, else `$XDG_CACHE_HOME/edge-lfm`, else `~/.cache/edge-lfm`.

    It need not exist, nor be a place that can be written to.
    """
    explicit = os.environ.get("EDGE_LFM_CACHE")
    return Path(explicit) if explicit else _user_folder("XDG_CACHE_HOME", ".cache")


def models_folder() -> Path:
    """Where models lie that no other folder was named for: `EDGE_LFM_MODELS`, else `$XDG_DATA_HOME/edge-lfm/models`,
    else `~/.local/share/edge-lfm/models`. It need not exist."""
    explicit = os.environ.get("EDGE_LFM_MODELS")
    return Path(explicit) if explicit else _user_folder("XDG_DATA_HOME", ".local/share") / "models"


def _user_folder(base: str, below_home: str) -> Path:
    """A folder of ours, below what the variable `base` says, else below the user's home."""
    if folder := os.environ.get(base):
        return Path(folder) / "edge-lfm"
    try:
        home = Path.home()
    except RuntimeError:  # a user that the system does not know, as in some containers
        home = Path("/nonexistent")  # what Debian calls the home of users without one
    return home / below_home / "edge-lfm"
