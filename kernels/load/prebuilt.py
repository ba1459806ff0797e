"""Prebuilt kernels: a shared object with a manifest beside it, checked before it is loaded.

Knows what a manifest must say for this machine and this source to use its object; does not know how one
is made (`devices/prebuild.py`). Imports no Numba.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import platform
import re
import struct
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from edge_lfm.errors import IsaError
from edge_lfm.kernels.spec.isa import TIERS, find_isa, processor_flags
from edge_lfm.kernels.spec.layout import LAYOUT_VERSION

_MAX_MANIFEST_BYTES = 1 << 16
_FILE = re.compile(r"[^./\x00-\x1f][^/\x00-\x1f]*")


@dataclass(frozen=True)
class Manifest:
    """What a shared object of kernels is, as its JSON file tells it.

    target: its name; isa: the tier; machine: of platform.machine(); requires: processor features without which
    it must not run; layout, source: the LAYOUT_VERSION and `source_hash` that it was made of; file, sha256: the object.
    """

    target: str
    isa: str
    machine: str
    triple: str
    cpu: str
    features: str
    requires: tuple[str, ...]
    layout: int
    source: str
    version: str
    llvm: str
    file: str
    sha256: str

    def text(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"


def read_manifest(path: Path) -> Manifest:
    """The manifest in a JSON file.

    Raises:
        IsaError: it cannot be read, or is not a manifest of kernels.
    """
    try:
        if not path.is_file() or path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise TypeError
        raw = json.loads(path.read_text(encoding="utf-8"))
        manifest = Manifest(**{**raw, "requires": tuple(raw["requires"])})
        if any(type(getattr(manifest, f.name)).__name__ != f.type.partition("[")[0] for f in fields(Manifest)):
            raise TypeError
        if not all(isinstance(feature, str) for feature in manifest.requires) or not _FILE.fullmatch(manifest.file):
            raise TypeError  # the object lies beside its manifest, and nowhere else
        find_isa(manifest.isa)
    except OSError as error:
        raise IsaError(f"{path}: {error.strerror}", hint=_REMAKE) from None
    except (ValueError, TypeError, KeyError, RecursionError, IsaError):
        raise IsaError(f"{path} is not a manifest of kernels that this version reads", hint=_REMAKE) from None
    return manifest


def why_not(manifest: Manifest, source: str) -> str:
    """Why this process cannot use an object, in a sentence, or nothing."""
    lacks = sorted(set(manifest.requires) - processor_flags())
    if struct.calcsize("P") != 8:
        return "this Python is a 32-bit program: install a 64-bit operating system"
    if manifest.machine != platform.machine():
        return f"made for {manifest.machine} ({manifest.cpu}), and this is {platform.machine()}"
    if lacks:
        return f"made for {manifest.cpu}, and this processor lacks {', '.join(lacks)}"
    if manifest.layout != LAYOUT_VERSION:
        return f"of layout version {manifest.layout}, and edge-lfm here packs version {LAYOUT_VERSION}"
    if manifest.source != source:
        return f"made from the kernels of another edge-lfm ({manifest.version})"
    return ""


def best_prebuilt(path: Path, source: str, isa: str | None) -> tuple[Manifest, Path]:
    """The best object that this machine can run among those of a folder, or the one of a file.

    Args:
        path: a folder with manifests, a manifest, or a shared object with its manifest beside it.
        source: the hash that its kernels must be of.
        isa: the tier that it must be of, or None for any.

    Raises:
        IsaError: there is none, with the reason of each.
    """
    try:
        descriptions = sorted(path.glob("*.json")) if path.is_dir() else [path.with_suffix(".json")]
    except ValueError:  # a name without a last part
        descriptions = []
    manifests = {place: read_manifest(place) for place in descriptions}
    reasons = {place: why_not(manifest, source) for place, manifest in manifests.items()}
    for tier in TIERS:
        for place, manifest in manifests.items():
            if manifest.isa == tier.name and isa in (None, tier.name) and not reasons[place]:
                return manifest, place.with_name(manifest.file)
    if not descriptions:
        raise IsaError(f"there are no kernels in {path}", hint=_REMAKE)
    tier_named = f"of the tier {isa} " if isa else ""
    why = "; ".join(f"{place.name}: {reason}" for place, reason in reasons.items() if reason)
    raise IsaError(f"no kernels {tier_named}in {path} can run here ({why or 'other tiers'})", hint=_REMAKE)


def open_prebuilt(manifest: Manifest, path: Path) -> ctypes.CDLL:
    """Load a shared object.

    Raises:
        IsaError: it is not the one that its manifest describes, or the system cannot load it.
    """
    try:
        if hashlib.sha256(path.read_bytes()).hexdigest() != manifest.sha256:
            raise IsaError(f"{path} is damaged: its SHA-256 is not the one of its manifest", hint=_REMAKE)
        return ctypes.CDLL(str(path.resolve()))
    except OSError as error:
        raise IsaError(f"{path} cannot be loaded: {error.strerror or error}", hint=_REMAKE) from None


_REMAKE = "make kernels with: edge-lfm compile --target TARGET -o FOLDER; or unset EDGE_LFM_KERNELS"
