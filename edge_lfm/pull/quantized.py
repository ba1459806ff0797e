"""A packed model that is made while its checkpoint comes: each tensor is fetched by a range of its file, and packed.

The checkpoint never lies on the disk, and what an interrupted run has packed is kept. Every range is checked: that it
is of the listed commit's file, and whole. The sum of a whole file is not, for its parts come in the order of packing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from edge_lfm.errors import DownloadError
from edge_lfm.model.packed_model import is_packed
from edge_lfm.pull.files import Pulled, cached_file, check_config, choose_files, list_files, pull
from edge_lfm.pull.hub import is_transport, load_hub, plain_errors
from edge_lfm.pull.remote import FetchRange, RemoteCheckpoint, RemoteFile
from edge_lfm.quantize.convert import Progress, convert
from edge_lfm.quantize.recipe import Recipe
from edge_lfm.quantize.report import ConversionReport

_TRIES, _FIRST_WAIT_S = 6, 0.5
_TIMEOUT_S = 60.0


def pull_quantized(
    repo: str,
    output: Path,
    recipe: Recipe,
    revision: str | None = None,
    endpoint: str | None = None,
    force: bool = False,
    progress: Callable[[int], Progress] | None = None,
) -> ConversionReport | Pulled:
    """Quantize a checkpoint of a hub into a packed model folder; goes on with what an interrupted run left. What is
    packed already comes as it is.

    Args:
        repo, revision, endpoint: as of `pull`. Weights that lie in the hub's own cache are read there.
        output, recipe, force, progress: as of `convert`.

    Raises:
        EdgeLfmError: as `pull` and `convert`.
    """
    hub = load_hub()
    with TemporaryDirectory(prefix="edge-lfm-") as scratch:
        source = Path(scratch) / repo.rpartition("/")[2]
        with plain_errors(hub, repo, revision, source):
            commit, sizes = list_files(hub, repo, revision, endpoint)
            weights = [name for name in choose_files(repo, sizes, None) if name.endswith(".safetensors")]
            pull(repo, source, commit, endpoint=endpoint, quiet=True, weights=False)
            if is_packed(source):
                return pull(repo, output, commit, endpoint=endpoint, quiet=True)
            check_config(source)
            here: dict[str, Path] = {}
            remote: dict[str, RemoteFile] = {}
            for name in weights:
                if (cached := cached_file(hub, repo, name, commit)) is not None:
                    here[name] = cached
                    continue
                url = hub.hf_hub_url(repo, name, revision=commit, endpoint=endpoint)
                tag = str(hub.get_hf_file_metadata(url).etag)
                remote[name] = RemoteFile(name, sizes[name], tag, _ranges_of(hub, url, sizes[name], tag))
            return convert(
                source,
                output,
                recipe,
                resume=not force,
                force=force,
                progress=progress,
                open_source=lambda folder: RemoteCheckpoint(folder, remote, here),
            )


def _ranges_of(hub: ModuleType, url: str, size: int, tag: str) -> FetchRange:
    """What fetches ranges of a file; a connection that breaks is tried again for a quarter of a minute.

    Raises, when called:
        DownloadError: the hub gives another file, or no ranges.
    """

    def fetch(start: int, count: int) -> bytes:
        wanted = f"bytes {start}-{start + count - 1}/{size}"
        headers = hub.utils.build_hf_headers() | {
            "Range": f"bytes={start}-{start + count - 1}",
            "Accept-Encoding": "identity",
        }
        for attempt in range(_TRIES):
            try:
                with hub.utils.http_stream_backoff(
                    "GET", url, headers=headers, timeout=_TIMEOUT_S, retry_on_exceptions=()
                ) as response:
                    hub.utils.hf_raise_for_status(response)
                    _check(response, wanted, tag, url)
                    content = b"".join(response.iter_bytes())
                if len(content) == count:
                    return content
                why = f"{len(content)} bytes came in place of {count}"
            except Exception as error:
                if not is_transport(error):
                    raise
                why = " ".join(str(error).split())[:200] or type(error).__name__
            if attempt < _TRIES - 1:
                time.sleep(_FIRST_WAIT_S * 2**attempt)
        raise DownloadError(f"{url} cannot be fetched: {why}", hint="the same command goes on where it stopped")

    return fetch


def _check(response: Any, wanted: str, tag: str, url: str) -> None:
    """Whether an answer is the range that was asked for, of the file that was."""
    told = [hop.headers.get("x-linked-etag") for hop in response.history]
    known = [*filter(None, told)] or ([response.headers.get("etag")] if not response.history else [])
    if any(one is not None and one.removeprefix("W/").strip('"') != tag for one in known):
        raise DownloadError(f"{url} has changed while it was read", hint="start again with --force")
    if response.status_code != 206 or response.headers.get("content-range") != wanted:
        raise DownloadError(
            f"{url}: the hub gives no ranges of files", hint="pull it without --quantize, and quantize what came"
        )
