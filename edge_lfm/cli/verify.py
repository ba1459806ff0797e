"""`edge-lfm verify`: whether every block and every file of a packed model is as it was written."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_lfm.cli.arguments import gigabytes, print_json, progress_bar
from edge_lfm.demo import packed_demo
from edge_lfm.errors import ModelFileError, OutputError
from edge_lfm.formats.file_list import EARLIER_FILES, changed_files, read_list, write_list
from edge_lfm.model.packed_model import PackedModel


def run(args: argparse.Namespace) -> None:
    folder = args.model or packed_demo()
    if args.accept:
        _accept(folder)
    changed = changed_files(folder) if folder.is_dir() else None
    if changed:
        _refuse(args, folder, {"changed_files": changed}, f"{', '.join(changed)} changed or missing")
    with PackedModel(folder) as model:
        total = sum(tensor.nbytes for tensor in model.tensors.values())
        broken = model.verify(progress_bar("verifying")(total))
        report = {"blocks": len(model.tensors), "bytes": total, "damaged": broken, "changed_files": changed}
    if broken:
        what = f"{len(broken)} of {len(model.tensors)} blocks are damaged, the first is {broken[0]}"
        _refuse(args, folder, report, what)
    if args.json:
        print_json({"model": str(folder)} | report)
        return
    print(f"{folder}: all {len(model.tensors)} blocks, {gigabytes(total)}, are as they were written")
    if changed is None:
        print("config, tokenizer and template have no checksums: an earlier edge-lfm made this model")


def _refuse(args: argparse.Namespace, folder: Path, report: dict[str, object], what: str) -> None:
    if args.json:
        print_json({"model": str(folder)} | report)
    raise ModelFileError(f"{folder}: {what}", hint="copy the model again, or quantize it anew")


def _accept(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ModelFileError(f"{folder} is not a packed model", hint="give the folder that edge-lfm quantize made")
    try:
        write_list(folder, only=read_list(folder) or EARLIER_FILES)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written to: {error.strerror}", hint="check its permissions") from None
