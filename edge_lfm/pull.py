"""Fetching a model from a Hugging Face hub: only the files that are needed, and no weights of a model that cannot run.

The transport (retries, tokens, HF_ENDPOINT, HF_HUB_OFFLINE) is the package huggingface_hub's, which only this file
imports. Its `hf_hub_download` throws a part of a file away when it is interrupted (2.4), and the 24B is one file of
48 GB: parts are kept here, and their sums checked. Knows which files make a checkpoint.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from edge_lfm.architectures import read_shape
from edge_lfm.errors import DownloadError, MissingExtraError, OutputError, UsageError
from edge_lfm.formats.checkpoint import TOKENIZER_FILES
from edge_lfm.formats.strict import read_json
from edge_lfm.locks import alone_in
from edge_lfm.quantize.convert import check_room
from edge_lfm.quantize.output import write_json

_NOTES, _PARTIAL = ".edge-lfm-pull.json", ".partial"
_SHA256 = re.compile("[0-9a-f]{64}")
_CONFIG = "config.json"
_WANTED = (_CONFIG, *TOKENIZER_FILES, "LICENSE", "LICENSE.md", "model.safetensors.index.json")


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
) -> Pulled:
    """Download a checkpoint, or one GGUF file, into a folder; what is there already is kept.

    Args:
        repo: like "LiquidAI/LFM2-24B-A2B".
        folder: where the files go; what an interrupted run left is gone on with.
        revision: branch, tag or commit; default: main.
        file: the name of a GGUF file of the repository, to fetch that alone.
        endpoint: address of another hub; default: HF_ENDPOINT, or huggingface.co.
        quiet: show no bars.

    Raises:
        DownloadError: no network, no such repository, revision or file, no permission.
        UsageError: the repository has GGUF files only, and none was chosen.
        UnsupportedModelError: the model is not of the family; nothing but its config has been fetched.
        OutputError: there is no room, or another process is at it. MissingExtraError: huggingface_hub is missing.
    """
    hub = _hub()
    hub.utils.logging.set_verbosity_error()
    if quiet:
        hub.utils.disable_progress_bars()
    with _plain_errors(hub, repo, revision, folder):
        info = hub.HfApi(endpoint=endpoint).model_info(repo, revision=revision, files_metadata=True)
        sizes = {s.rfilename: s.size or 0 for s in info.siblings or ()}
        chosen = _choose(repo, sizes, file)
        check_room(_existing_parent(folder), sum(sizes[name] for name in chosen) - _present_bytes(folder, chosen))
        folder.mkdir(parents=True, exist_ok=True)
        with alone_in(folder, wait=False):  # two processes would append to one part
            for name in chosen:
                url = hub.hf_hub_url(repo, name, revision=info.sha, endpoint=endpoint)
                _fetch(hub, url, folder, name, sizes[name])
                if name == _CONFIG:
                    read_shape(read_json(folder / name), str(folder / name))
    return Pulled(repo, str(info.sha), str(folder), {name: sizes[name] for name in chosen})


def _fetch(hub: ModuleType, url: str, folder: Path, name: str, size: int) -> None:
    """One file, or the rest of it; a file that is there already is not asked for again."""
    etag = str(hub.get_hf_file_metadata(url).etag)
    target, notes = folder / name, folder / _NOTES
    known = read_json(notes) if notes.exists() else {}
    if known.get(name) == etag and target.is_file() and target.stat().st_size == size:
        return
    partial = folder / f".{name.replace('/', '_')}.{etag[:16]}{_PARTIAL}"
    with partial.open("ab") as file:
        hub.file_download.http_get(
            url, file, resume_size=file.tell(), headers=hub.utils.build_hf_headers(), expected_size=size
        )
    if _SHA256.fullmatch(etag) and _sum(partial) != etag:  # the hub's tag of large files; small ones have git's
        partial.unlink()
        raise DownloadError(f"{url}: what came is damaged", hint="try again")
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(partial, target)
    write_json(notes, known | {name: etag})


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _choose(repo: str, sizes: dict[str, int], file: str | None) -> list[str]:
    """The files to fetch, of those in the repository."""
    ggufs = sorted(name for name in sizes if name.endswith(".gguf"))
    if file is not None:
        if file not in sizes or ".." in Path(file).parts or Path(file).is_absolute():
            raise DownloadError(f"{repo} has no file {file!r}", hint=f"it has {_some(ggufs) or 'no GGUF files'}")
        return [file]
    weights = sorted(name for name in sizes if name.endswith(".safetensors") and "/" not in name)
    if not weights and ggufs:
        raise UsageError(f"{repo} has GGUF files only", hint=f"choose one with --file: {_some(ggufs)}")
    if not weights or _CONFIG not in sizes:
        raise DownloadError(f"{repo} holds no checkpoint", hint="it needs config.json and safetensors files")
    return [name for name in _WANTED if name in sizes] + weights


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


def _hub() -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.file_download
        import huggingface_hub.utils
    except ImportError:
        raise MissingExtraError(
            "pulling needs the package huggingface_hub", hint="install it: pip install 'edge-lfm[hub]'"
        ) from None
    return huggingface_hub


@contextmanager
def _plain_errors(hub: ModuleType, repo: str, revision: str | None, folder: Path) -> Iterator[None]:
    """Turn the package's errors into one line each."""
    known = hub.errors
    try:
        yield
    except known.HFValidationError:
        raise UsageError(f"{repo!r:.80} is not the name of a repository", hint="give OWNER/NAME") from None
    except known.OfflineModeIsEnabled:
        raise DownloadError(f"{repo} cannot be fetched: HF_HUB_OFFLINE is set", hint="unset it, or copy it") from None
    except known.GatedRepoError:
        raise DownloadError(f"{repo} asks for consent", hint="accept its terms on the hub, and set HF_TOKEN") from None
    except known.RevisionNotFoundError:
        raise DownloadError(f"{repo} has no revision {revision!r}", hint="give a branch, tag or commit") from None
    except known.RepositoryNotFoundError:
        raise DownloadError(
            f"there is no repository {repo}, or it is private", hint="check its name, or set HF_TOKEN"
        ) from None
    except BlockingIOError:
        raise OutputError(f"another edge-lfm is fetching into {folder}", hint="wait for it, or end it") from None
    except (known.HfHubHTTPError, known.LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        raise _interrupted(repo, error) from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "requests"):  # its transport, by version
            raise _interrupted(repo, error) from None
        if isinstance(error, OSError):
            raise OutputError(f"{error.filename or 'a file'} cannot be written: {error.strerror}") from None
        raise


def _interrupted(repo: str, error: Exception) -> DownloadError:
    reason = " ".join(str(error).split())[:200]
    return DownloadError(f"{repo} cannot be fetched: {reason}", hint="the same command goes on where it stopped")
