"""The version of this package, as it is installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("edge-lfm")
except PackageNotFoundError:  # a checkout that is not installed
    VERSION = "0+checkout"
