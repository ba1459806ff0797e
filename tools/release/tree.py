"""What a checkout says of itself: its version, its changelog, its commit."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

from edge_lfm.kernels.spec.layout import LAYOUT_VERSION
from release.checklist import ReleaseError, call


def project_version(root: Path) -> str:
    return str(tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def check_metadata(root: Path) -> str:
    """An index shows where the project lives, and for which Pythons it is."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = ("Repository", "Documentation", "Changelog", "Issues")
    missing = [name for name in wanted if name not in project.get("urls", {})]
    if missing:
        raise ReleaseError(f"[project.urls] of pyproject.toml lacks {', '.join(missing)}")
    return f"{len(project['classifiers'])} classifiers, {len(project['urls'])} addresses"


def commit_seconds(root: Path) -> int:
    """When HEAD was committed, in seconds since 1970: the time of every file of a release."""
    return int(call("git", "-C", str(root), "log", "-1", "--format=%ct"))


def check_tree(root: Path) -> str:
    """All is committed, and what is installed here has the version of the sources."""
    changed = call("git", "-C", str(root), "status", "--porcelain").splitlines()
    if changed:
        raise ReleaseError(
            f"commit or remove {changed[0][3:]}" + (f" and {len(changed) - 1} more" * (len(changed) > 1))
        )
    mine, here = project_version(root), version("edge-lfm")
    if mine != here:
        raise ReleaseError(f"pyproject.toml has {mine}, installed is {here}: make clean, then again")
    return f"commit {call('git', '-C', str(root), 'rev-parse', '--short', 'HEAD').strip()}"


def check_changelog(root: Path) -> str:
    """The newest entry is this version's, with a date, and says the layout version and what breaks."""
    return check_entry((root / "CHANGELOG.md").read_text(encoding="utf-8"), project_version(root), LAYOUT_VERSION)


def check_entry(changelog: str, version: str, layout: int) -> str:
    """As `check_changelog`, of a text.

    Raises:
        ReleaseError: says what the entry lacks.
    """
    match = re.search(r"^## \[(.+?)\](?: - (\S+))?\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    if not match or match[1] != version:
        raise ReleaseError(f"the first entry of CHANGELOG.md must be ## [{version}] - YYYY-MM-DD")
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", match[2] or ""):
        raise ReleaseError(f"CHANGELOG.md: ## [{version}] needs a date in place of '{match[2] or ''}'")
    if f"Packed layout: {layout}." not in match[3]:
        raise ReleaseError(f"CHANGELOG.md: [{version}] must say 'Packed layout: {layout}.'")
    if "### Breaking changes" not in match[3]:
        raise ReleaseError(f"CHANGELOG.md: [{version}] has no '### Breaking changes' (it may say: none)")
    return f"{version} of {match[2]}, packed layout {layout}"
