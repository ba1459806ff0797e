"""`edge-lfm export`: a model in the format of another runtime."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from edge_lfm.cli.arguments import gigabytes, print_json, progress_bar
from edge_lfm.errors import UsageError
from edge_lfm.export.gguf import GgufReport, write_gguf
from edge_lfm.export.onnx import OnnxReport, write_onnx
from edge_lfm.export.source import ExportSource, open_source


def run(args: argparse.Namespace) -> None:
    if (args.format == "gguf" and args.activations) or (args.format == "onnx" and args.type):
        raise UsageError("--type is of GGUF files, --activations of ONNX graphs", hint="leave the other out")
    with open_source(args.model) as source:
        made, held = (_write_gguf if args.format == "gguf" else _write_onnx)(source, args)
    if args.json:
        print_json(asdict(made))
        return
    print(f"{args.output}: {gigabytes(made.file_bytes)}")
    for kind, what in held.items():
        print(f"  {kind:10} {what}")


def _write_gguf(source: ExportSource, args: argparse.Namespace) -> tuple[GgufReport, dict[str, str]]:
    report = write_gguf(source, args.output, args.type, args.force, progress_bar("writing"))
    lost = {kind: f", relative error {error:.4f}" for kind, error in report.relative_rmse.items()}
    return report, {kind: name + lost.get(kind, "") for kind, name in report.types.items()}


def _write_onnx(source: ExportSource, args: argparse.Namespace) -> tuple[OnnxReport, dict[str, str]]:
    activations = args.activations or "int8"
    report = write_onnx(source, args.output, activations, args.force, progress_bar("writing", " layers"))
    return report, report.classes
