"""The files of a checkpoint from a hub: only those that are needed, and no weights of a model that cannot run.

The transport is huggingface_hub's. Its `hf_hub_download` throws a part of a file away when it is interrupted (2.4), and
the 24B is one file of 48 GB: parts are kept here, and their sums checked. Knows which files make a checkpoint.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from edge_lfm.architectures import read_shape
from edge_lfm.errors import DownloadError, ModelFileError, OutputError, UsageError
from edge_lfm.formats import float8
from edge_lfm.formats.checkpoint import LICENCE_FILES, TOKENIZER_FILES
from edge_lfm.formats.strict import read_json
from edge_lfm.locks import alone_in
from edge_lfm.model.packed_model import is_packed
from edge_lfm.pull.hub import load_hub, plain_errors
from edge_lfm.quantize.convert import check_room
from edge_lfm.quantize.output import write_json

NOTES, _PARTIAL = ".edge-lfm-pull.json", ".partial"
_SHA256, _GIT = re.compile("[0-9a-f]{64}"), re.compile("[0-9a-f]{40}")
_CONFIG = "config.json"
_WANTED = (_CONFIG, *TOKENIZER_FILES, *LICENCE_FILES, "model.safetensors.index.json")
_VOCABULARY = ".tiktoken"
"""How files end that stand in the place of `tokenizer.json`."""


@dataclass(frozen=True)
class Pulled:
    """What came: the repository's commit, and sizes by file name."""

    repo: str
    commit: str
    folder: str
    files: dict[str, int]

    @property
    def nbytes(self) -> int:
        return sum(self.files.values())


def pull(
    repo: str,
    folder: Path,
    revision: str | None = None,
    file: str | None = None,
    endpoint: str | None = None,
    quiet: bool = False,
    weights: bool = True,
) -> Pulled:
    """Download a checkpoint, or one GGUF file, into a folder; what is there already is kept.

    Args:
        repo: like "LiquidAI/LFM2-24B-A2B".
        folder: where the files go; what an interrupted run left is gone on with.
        revision: branch, tag or commit; default: main.
        file: the name of a GGUF file of the repository, to fetch that alone.
        endpoint: address of another hub; default: HF_ENDPOINT, or huggingface.co.
        quiet: show no bars.
        weights: fetch them too; False: config, tokenizer and template only.

    Raises:
        DownloadError: no network, no such repository, revision or file, no permission.
        UsageError: the repository has GGUF files only, and none was chosen.
        UnsupportedModelError: the model is not of the family; nothing but its config has been fetched.
        OutputError: there is no room, or another process is at it. MissingExtraError: huggingface_hub is missing.
    """
    hub = load_hub()
    hub.utils.logging.set_verbosity_error()
    if quiet:
        hub.utils.disable_progress_bars()
    with plain_errors(hub, repo, revision, folder):
        commit, sizes = list_files(hub, repo, revision, endpoint)
        chosen = [n for n in choose_files(repo, sizes, file) if weights or not n.endswith(".safetensors")]
        check_room(_existing_parent(folder), sum(sizes[name] for name in chosen) - _present_bytes(folder, chosen))
        folder.mkdir(parents=True, exist_ok=True)
        with alone_in(folder, wait=False):  # two processes would append to one part
            notes, files = _read_notes(folder), []
            for name in chosen:
                url = hub.hf_hub_url(repo, name, revision=commit, endpoint=endpoint)
                files.append(_look_up(hub, url, folder, name, notes))
            for remote in files:
                if not remote.kept:
                    _fetch(hub, remote, folder, sizes[remote.name], cached_file(hub, repo, remote.name, commit))
                if remote.name == _CONFIG:
                    check_config(folder)
                notes[remote.name] = remote.etag
                _write_notes(folder, notes)
    return Pulled(repo, commit, str(folder), {name: sizes[name] for name in chosen})


def list_files(hub: ModuleType, repo: str, revision: str | None, endpoint: str | None) -> tuple[str, dict[str, int]]:
    """The commit that a revision is, and the sizes of its files by name."""
    info = hub.HfApi(endpoint=endpoint).model_info(repo, revision=revision, files_metadata=True)
    return str(info.sha), {s.rfilename: s.size or 0 for s in info.siblings or ()}


def cached_file(hub: ModuleType, repo: str, name: str, commit: str) -> Path | None:
    """A file that other programs have left in the hub's own cache."""
    found = hub.try_to_load_from_cache(repo, name, revision=commit)
    return Path(found) if isinstance(found, str) else None


def check_config(folder: Path) -> None:
    """Refuse a repository whose model is not implemented, or that another tool quantized, before its weights come."""
    config = folder / _CONFIG
    raw = read_json(config)
    read_shape(raw, str(config))
    if not is_packed(folder):
        float8.block_of(raw, str(config))


@dataclass(frozen=True)
class _RemoteFile:
    """A file of the repository: where it comes from, its tag (what its content is), and where it goes."""

    name: str
    url: str
    etag: str
    target: Path
    kept: bool  # it is there already


def _look_up(hub: ModuleType, url: str, folder: Path, name: str, known: dict[str, Any]) -> _RemoteFile:
    """Whether a file is there already, or may be written.

    Raises:
        OutputError: something else lies under its name, which did not come from here or was changed since.
    """
    etag, target = str(hub.get_hf_file_metadata(url).etag), folder / name
    if not os.path.lexists(target):
        return _RemoteFile(name, url, etag, target, kept=False)
    if target.is_file() and not target.is_symlink():
        tag = _tag_of(target, (etag, str(known.get(name))))
        if tag == etag or (tag is not None and tag == known.get(name)):
            return _RemoteFile(name, url, etag, target, kept=tag == etag)
    raise OutputError(
        f"{target} is in the way, and is not as the hub has it", hint="move it away, or choose another folder with -o"
    )


def _tag_of(path: Path, tags: tuple[str, ...]) -> str | None:
    """Which of some tags is that of a file's content: a SHA-256, or git's hash of a small file."""
    for tag in tags:
        if tag == _content_tag(path, tag):
            return tag
    return None


def _content_tag(path: Path, like: str) -> str | None:
    """The tag of a file's content in the form of another one; None if that form is not known."""
    if _SHA256.fullmatch(like):
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if _GIT.fullmatch(like):
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        digest.update(path.read_bytes())
        return digest.hexdigest()
    return None


def _fetch(hub: ModuleType, remote: _RemoteFile, folder: Path, size: int, cached: Path | None) -> None:
    """One file, or the rest of it; a copy, where it is `cached`."""
    partial = folder / f".{remote.name.replace('/', '_')}.{remote.etag[:16]}{_PARTIAL}"
    if cached is not None:
        shutil.copyfile(cached, partial)
    else:
        with partial.open("ab") as file:
            hub.file_download.http_get(
                remote.url, file, resume_size=file.tell(), headers=hub.utils.build_hf_headers(), expected_size=size
            )
    if _content_tag(partial, remote.etag) not in (None, remote.etag):
        partial.unlink()
        raise DownloadError(f"{remote.url}: what came is damaged", hint="try again")
    remote.target.parent.mkdir(parents=True, exist_ok=True)
    if not remote.target.parent.resolve().is_relative_to(folder.resolve()):
        raise OutputError(f"{remote.target} lies outside of {folder}", hint="remove the link, or choose another folder")
    os.replace(partial, remote.target)


def _read_notes(folder: Path) -> dict[str, Any]:
    """Tags of what was fetched before, by name; none if the notes are damaged: contents are looked at then."""
    try:
        return read_json(folder / NOTES)
    except ModelFileError:
        return {}


def _write_notes(folder: Path, notes: dict[str, Any]) -> None:
    partial = folder / f"{NOTES}{_PARTIAL}"
    write_json(partial, notes)
    os.replace(partial, folder / NOTES)


def choose_files(repo: str, sizes: dict[str, int], file: str | None) -> list[str]:
    """The files to fetch, of those in the repository."""
    ggufs = sorted(name for name in sizes if name.endswith(".gguf"))
    if file is not None:
        if file not in sizes or ".." in Path(file).parts or Path(file).is_absolute():
            raise DownloadError(f"{repo} has no file {file!r}", hint=f"it has {_some(ggufs) or 'no GGUF files'}")
        return [file]
    weights = sorted(name for name in sizes if name.endswith(".safetensors") and "/" not in name)
    if not weights and ggufs:
        raise UsageError(f"{repo} has GGUF files only", hint=f"choose one with --file: {_some(ggufs)}")
    pickles = sorted(name for name in sizes if name.endswith(".bin") and "/" not in name)
    if not weights and pickles and _CONFIG in sizes:
        hint = "safetensors may lie in a pull request of the repository: --revision refs/pr/N; else convert them"
        raise DownloadError(f"{repo} has its weights as {_some(pickles)} only, which are not read", hint=hint)
    if not weights or _CONFIG not in sizes:
        raise DownloadError(f"{repo} holds no checkpoint", hint="it needs config.json and safetensors files")
    vocabularies = sorted(name for name in sizes if name.endswith(_VOCABULARY) and "/" not in name)
    return [name for name in _WANTED if name in sizes] + vocabularies + weights


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _existing_parent(folder: Path) -> Path:
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _present_bytes(folder: Path, names: list[str]) -> int:
    """Bytes that an earlier run has fetched, whole files and parts."""
    whole = sum((folder / name).stat().st_size for name in names if (folder / name).is_file())
    parts = folder.glob(f".*{_PARTIAL}")
    return whole + sum(part.stat().st_size for part in parts)
