"""Speed beside llama.cpp, in one interleaved run: builds the peer, writes the same shapes, prints ratios.

    pip install gguf cmake ninja
    python benchmarks/llama_cpp.py --shape lfm2-24b-a2b --threads 1,2 --rounds 3

Needs a C++ compiler, 30 GB of disk for the 24B and memory for it. The peer is built from the PyPI source
package of llama-cpp-python (vendor/llama.cpp) with -march=native; both engines get random weights in the
same shape, and take turns, so that a slow minute of a shared machine hits both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from edge_lfm.memory.prefault import Prefault
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.quantize.families import PUBLISHED, family_config
from edge_lfm.quantize.recipe import find_recipe
from edge_lfm.quantize.synth import synthesize

PEER = "llama-cpp-python==0.3.36"
FORMATS = {  # name -> (matrices, embedding, our recipe, extra arguments of llama-bench)
    "Q4_0": ("Q4_0", "Q6_K", "balanced", []),
    "Q4_K no repack": ("Q4_K", "Q6_K", "balanced", ["--repack", "0"]),
    "Q8_0": ("Q8_0", "Q8_0", "int8", []),
    "MXFP4": ("MXFP4", "Q8_0", "mxfp4", []),  # experts, and all else: as gpt-oss is published
}


def build_peer(work: Path, amx: bool = True, program: str = "llama-bench") -> Path:
    """A program of the peer's, built once under `work`; without AMX, whose code in this version dies of a segmentation
    fault."""
    work.mkdir(parents=True, exist_ok=True)
    builds = sorted(work.glob(f"llama_cpp_python-*/vendor/llama.cpp/build/bin/{program}"))
    if builds:
        return builds[-1]
    build = next(work.glob("llama_cpp_python-*/vendor/llama.cpp/build"), None) or configure_peer(work, amx)
    subprocess.run(["cmake", "--build", "build", "--target", program], cwd=build.parent, check=True, stdout=sys.stderr)
    return build / "bin" / program


def configure_peer(work: Path, amx: bool) -> Path:
    """The folder of a build of the peer, with its source beside it."""
    pip = [sys.executable, "-m", "pip"]
    # Without build isolation: pip would build CMake itself from source to read the package's name.
    subprocess.run([*pip, "install", "-q", "scikit-build-core"], check=True)
    fetch = ["download", "-q", "--no-deps", "--no-build-isolation", "--no-binary", "llama-cpp-python", "-d", str(work)]
    subprocess.run([*pip, *fetch, PEER], check=True)
    archive = next(work.glob("llama_cpp_python-*.tar.gz"))
    subprocess.run(["tar", "xf", archive.name], cwd=work, check=True)
    source = next(work.glob("llama_cpp_python-*/vendor/llama.cpp"))
    flags = ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_TESTS=OFF",
             "-DLLAMA_BUILD_SERVER=OFF"]  # fmt: skip
    if not amx:
        without = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
        flags += [f"-DCMAKE_C_FLAGS={without}", f"-DCMAKE_CXX_FLAGS={without}"]
    subprocess.run(["cmake", "-B", "build", "-G", "Ninja", *flags], cwd=source, check=True, stdout=sys.stderr)
    return source / "build"


def prepare(work: Path, shape: str, name: str, recipe: str) -> tuple[Path, Path]:
    """The two model files of a format, written once: ours and the peer's."""
    ours = work / f"{shape}-{recipe}"
    if not ours.exists():
        synthesize(family_config(shape), ours, find_recipe(recipe))
    return ours, prepare_peer(work, shape, name)


def prepare_peer(work: Path, shape: str, name: str) -> Path:
    """The peer's model file."""
    import gguf
    from gguf_synth import write_gguf

    kind, embedding, _, _ = FORMATS[name]
    theirs = work / f"{shape}-{kind}.gguf"
    if not theirs.exists():
        types = gguf.GGMLQuantizationType
        write_gguf(known_to_peer(family_config(shape)), theirs, types[kind], types[embedding])
    return theirs


def known_to_peer(raw_config: dict[str, Any]) -> dict[str, Any]:
    """The shape itself; LFM3, which this version of the peer does not know, as an LFM2 with its matrices.

    What the peer is spared: norms behind the branches, gates of heads. What it does more: all attention is full.
    """
    if raw_config["model_type"] != "lfm3":
        return raw_config
    full = [kind.replace("sliding_attention", "full_attention") for kind in raw_config["layer_types"]]
    other = {"model_type": "lfm2", "architectures": ["Lfm2ForCausalLM"], "block_auto_adjust_ff_dim": False}
    positions = {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}
    return raw_config | other | positions | {"layer_types": full}


def fill_page_cache(model: Path) -> None:
    """Read the model into memory: the peer's private copy may have pushed it out."""
    with PackedModel(model) as packed:
        prefault = Prefault(*packed.span)
        prefault.wait()
        prefault.close()


def measure_ours(model: Path, threads: int, args: argparse.Namespace) -> dict[str, float]:
    fill_page_cache(model)
    command = [sys.executable, "-P", "-m", "edge_lfm.cli.main", "bench", str(model), "-t", str(threads), "--json",
               "-p", args.prompt, "-n", args.generate, "-d", args.depth, "-r", "2"]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    rows = json.loads(done.stdout)["results"]
    speeds = {f"{row['test']}@{row['depth']}": row["tokens_per_second"] for row in rows}
    for row in rows:
        speeds[f"{row['test']}@{row['depth']} share"] = row["share_of_limit"]
    return speeds


def measure_peer(
    bench: Path, model: Path, threads: int, args: argparse.Namespace, extra: list[str]
) -> dict[str, float]:
    command = [str(bench), "-m", str(model), "-t", str(threads), "-p", args.prompt, "-n", args.generate,
               "-d", args.depth,  "-r", str(args.repeat), "-o", "json", *extra]  # fmt: skip
    environment = os.environ | {"LD_LIBRARY_PATH": str(bench.parent)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    speeds = {}
    for row in json.loads(done.stdout):
        test = f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}"
        speeds[f"{test}@{row['n_depth']}"] = row["avg_ts"]
    return speeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="lfm2-8b-a1b", choices=PUBLISHED)
    parser.add_argument("--format", default="Q4_0", choices=FORMATS)
    parser.add_argument("--recipe", help="ours, in place of the one that belongs to the format")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-r", "--repeat", type=int, default=2, help="runs of a test within a round")
    parser.add_argument("-p", "--prompt", default="32,128,512")
    parser.add_argument("-n", "--generate", default="48")
    parser.add_argument("-d", "--depth", default="0")
    parser.add_argument("--work", type=Path, default=Path("build/llama_cpp"), help="folder for the peer and the models")
    parser.add_argument("--no-amx", action="store_true", help="build the peer without AMX")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    bench = build_peer(args.work / "no-amx", amx=False) if args.no_amx else build_peer(args.work)
    recipe = args.recipe or FORMATS[args.format][2]
    ours, theirs = prepare(args.work, args.shape, args.format, recipe)
    rows = []
    for threads in (int(t) for t in args.threads.split(",")):
        rounds = []
        for n in range(args.rounds):
            print(f"{threads} threads, round {n + 1} of {args.rounds} ...", file=sys.stderr, flush=True)
            rounds.append((measure_ours(ours, threads, args),
                           measure_peer(bench, theirs, threads, args, FORMATS[args.format][3])))  # fmt: skip
        for test in rounds[0][1]:
            mine = statistics.median(a[test] for a, _ in rounds)
            peer = statistics.median(b[test] for _, b in rounds)
            share = statistics.median(a[f"{test} share"] for a, _ in rounds)
            rows.append({"test": test, "threads": threads, "edge_lfm_tps": mine, "llama_cpp_tps": peer,
                         "ratio": statistics.median(a[test] / b[test] for a, b in rounds), "share_of_limit": share,
                         "rounds": [[a[test], b[test]] for a, b in rounds]})  # fmt: skip
    print(f"\n{args.shape}, edge-lfm {recipe} beside llama.cpp {args.format}\n")
    print(
        "| test | threads | edge-lfm tok/s | llama.cpp tok/s | ratio | share of the limit |\n|---|---|---|---|---|---|"
    )
    for row in rows:
        print(f"| {row['test']} | {row['threads']} | {row['edge_lfm_tps']:.1f} | {row['llama_cpp_tps']:.1f} | "
              f"{row['ratio']:.2f} | {row['share_of_limit']:.0%} |")  # fmt: skip
    if args.json:
        args.json.write_text(
            json.dumps({"shape": args.shape, "format": args.format, "recipe": recipe, "rows": rows}, indent=1)
        )


if __name__ == "__main__":
    main()
