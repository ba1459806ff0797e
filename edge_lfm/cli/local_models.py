"""Models by name: those in the folder where `pull --quantize` puts them, and those that a hub has.

A model of a repository OWNER/NAME lies in the folder OWNER/NAME there, and is also found as NAME.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_lfm.errors import ModelFileError, OutputError, UsageError
from edge_lfm.formats.file_list import EARLIER_FILES, LIST, is_ours, read_list
from edge_lfm.formats.strict import read_json
from edge_lfm.locks import alone_in
from edge_lfm.model.packed_model import is_packed
from edge_lfm.paths import models_folder
from edge_lfm.pull import pull_quantized
from edge_lfm.pull.files import NOTES
from edge_lfm.pull.hub import is_repository
from edge_lfm.quantize.convert import Progress
from edge_lfm.quantize.recipe import find_recipe
from edge_lfm.quantize.recipe_files import DEFAULT_RECIPE

DEMO = "demo"
"""The embedded demo model's name, as of its drafter."""


@dataclass(frozen=True)
class LocalModel:
    """A model in the models' folder. nbytes: of its files, those of an unfinished run included."""

    name: str
    folder: Path
    nbytes: int
    recipe: str
    finished: bool


def find_model(text: str) -> str:
    """The folder that a text names: itself if there is something of that name, or a model in the models' folder.

    Raises:
        UsageError: several models there have the name.
    """
    if not text or Path(text).exists() or Path(text).is_absolute():
        return text
    if is_repository(text) and (folder := models_folder() / text).is_dir():
        return str(folder)
    named = [model for model in local_models() if model.folder.name == text and model.finished]
    if len(named) > 1:
        raise UsageError(f"several models are called {text}", hint=f"say {' or '.join(m.name for m in named)}")
    return str(named[0].folder) if named else text


def names_demo(found: str) -> bool:
    """Whether what `find_model` found is the name of the embedded demo model: nothing else has it."""
    return found == DEMO and not Path(found).exists()


def settle_model(text: str | None, progress: Callable[[int], Progress]) -> str | None:
    """As `find_model`; a repository that is not here is pulled and quantized, if who sits at the terminal wants it.
    The embedded demo model is None, as no name is.

    Raises:
        UsageError: nobody wants it, or nobody can be asked.
    """
    if text is None:
        return None
    found = find_model(text)
    if Path(found).exists() or not is_repository(found):
        return None if names_demo(found) else found
    recipe, command = find_recipe(DEFAULT_RECIPE), f"edge-lfm pull {text} --quantize {DEFAULT_RECIPE}"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"{text} is not on this machine", hint=f"get it: {command}")
    print(f"{text} is not on this machine. Pull and quantize it ({recipe.summary})? [Y/n] ", end="", file=sys.stderr)
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("", "y", "yes"):
        raise UsageError(f"{text} was not pulled", hint=f"later: {command}")
    return str(obtain(text, progress))


def obtain(repo: str, progress: Callable[[int], Progress] | None = None) -> Path:
    """The folder of a repository's packed model: it is pulled and quantized, unless it is there. One process at a time
    does so; others wait for it.

    Raises:
        EdgeLfmError: as `pull_quantized`.
    """
    folder = models_folder() / repo
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder.parent} cannot be made: {error.strerror}", hint="set EDGE_LFM_MODELS") from None
    with alone_in(folder.parent, wait=True):
        if not _is_model(folder):
            pull_quantized(repo, folder, find_recipe(DEFAULT_RECIPE), progress=progress)
    return folder


def local_models() -> Iterator[LocalModel]:
    """Those in the models' folder, by name; runs that were not finished too."""
    root = models_folder()
    for folder in sorted(path for depth in ("*", "*/*") for path in root.glob(depth) if path.is_dir()):
        stage = folder.name.endswith(".partial") and is_ours(folder)
        if stage or _is_model(folder):
            name = folder.relative_to(root).as_posix().removesuffix(".partial" if stage else "")
            nbytes = sum(path.stat().st_blocks * 512 for path in folder.iterdir() if path.is_file())
            yield LocalModel(name, folder, nbytes, "" if stage else _recipe_of(folder), not stage)


def remove_model(name: str) -> int:
    """Delete a model from the models' folder, or what an unfinished run left of it; the bytes that it took.

    Raises:
        UsageError: there is none, or several.
        OutputError: its folder also holds what edge-lfm did not put there, or cannot be deleted.
    """
    models = [model for model in local_models() if name in (model.name, model.name.rpartition("/")[2])]
    if len({model.name for model in models}) != 1:
        known = sorted({model.name for model in models or local_models()})
        what = "several models are called" if models else "there is no model"
        raise UsageError(f"{what} {name}", hint=f"there is {', '.join(known)}" if known else "edge-lfm list shows all")
    for model in models:
        listed = {*EARLIER_FILES, *(read_list(model.folder) or {}), LIST, NOTES}
        others = sorted(p.name for p in model.folder.iterdir() if p.name not in listed) if model.finished else []
        if others:
            raise OutputError(
                f"{model.folder} also holds {', '.join(others[:5])}, which edge-lfm did not make",
                hint="move that away, or delete the folder yourself",
            )
        try:
            shutil.rmtree(model.folder)
        except OSError as error:
            raise OutputError(f"{model.folder} cannot be deleted: {error.strerror}") from None
    return sum(model.nbytes for model in models)


def _is_model(folder: Path) -> bool:
    """Whether a folder holds a whole packed model, as far as its names tell."""
    try:
        return (folder / "model.safetensors").is_file() and is_packed(folder)
    except ModelFileError:
        return False


def _recipe_of(folder: Path) -> str:
    try:
        return str(read_json(folder / "config.json")["quantization_config"]["recipe"])
    except (ModelFileError, KeyError, TypeError):
        return ""
