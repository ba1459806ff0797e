"""A hub: names and addresses of repositories, the package huggingface_hub, and its errors as one line each.

The transport (retries, tokens, HF_ENDPOINT, HF_HUB_OFFLINE) is that package's, which only this file imports.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

from edge_lfm.errors import DownloadError, MissingExtraError, OutputError, UsageError

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_DEFAULT_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")


@dataclass(frozen=True)
class Address:
    """A repository, and what of it. endpoint: of another hub; None: HF_ENDPOINT, or huggingface.co."""

    repo: str
    revision: str | None = None
    file: str | None = None
    endpoint: str | None = None


def read_address(text: str, revision: str | None = None, file: str | None = None) -> Address:
    """OWNER/NAME, or the address of a page of a repository or of one of its files.

    Args:
        revision, file: given beside it.

    Raises:
        UsageError: it is neither, or says something else than `revision` or `file`.
    """
    if "://" not in text:
        return Address(text, revision, file)
    url = urlsplit(text)
    parts = [unquote(part) for part in url.path.strip("/").split("/")]
    repo, rest = "/".join(parts[:2]), parts[2:]
    known = rest[0] in ("tree", "blob", "resolve") and len(rest) > 1 if rest else True
    if url.scheme not in ("http", "https") or not url.hostname or not _REPO.fullmatch(repo) or not known:
        raise UsageError(f"{text!r:.200} is no address of a repository", hint="give OWNER/NAME, or its page's address")
    endpoint = None if url.hostname in _DEFAULT_HOSTS else f"{url.scheme}://{url.netloc}"
    told = rest[1] if rest else None
    name = "/".join(rest[2:]) or None if rest and rest[0] != "tree" else None
    for what, one, other in (("revision", told, revision), ("file", name, file)):
        if one is not None and other is not None and one != other:
            raise UsageError(f"the address says {one!r}, --{what} {other!r}", hint="give one of them")
    return Address(repo, told or revision, name or file, endpoint)


def is_repository(text: str) -> bool:
    """Whether a text looks like OWNER/NAME."""
    return _REPO.fullmatch(text) is not None


def load_hub() -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.file_download
        import huggingface_hub.utils
    except ImportError:
        raise MissingExtraError("pulling needs the package huggingface_hub", extra="hub") from None
    return huggingface_hub


@contextmanager
def plain_errors(hub: ModuleType, repo: str, revision: str | None, folder: Path) -> Iterator[None]:
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
        if is_transport(error):
            raise _interrupted(repo, error) from None
        if isinstance(error, OSError):
            raise OutputError(f"{error.filename or 'a file'} cannot be written: {error.strerror}") from None
        raise


def is_transport(error: Exception) -> bool:
    """Whether an error is of the package's transport, which is another one in each of its versions."""
    return type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "requests")


def _interrupted(repo: str, error: Exception) -> DownloadError:
    reason = " ".join(str(error).split())[:200]
    return DownloadError(f"{repo} cannot be fetched: {reason}", hint="the same command goes on where it stopped")
