"""A head with a screen: what is drawn is what the whole head gives, for every sampler, on every tier.

The bounds are checked against both kernels' own logits, exact rows bit by bit against the whole head's.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import GOLDEN_CASES, goldens_tool, write_checkpoint
from safetensors.numpy import load_file, save_file
from stepping import paging_ram

from edge_lfm import Model
from edge_lfm.demo import demo_checkpoint
from edge_lfm.engine.feeds import Contenders, Feed
from edge_lfm.engine.runner import Runner
from edge_lfm.engine.sampling import Sampler, SamplingOptions
from edge_lfm.engine.screening import missing_tiles
from edge_lfm.errors import ModelFileError, UnsupportedModelError
from edge_lfm.formats.file_list import LIST
from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.kernels.spec import ref
from edge_lfm.kernels.spec.isa import find_isa, runnable_tiers
from edge_lfm.kernels.spec.schemes import SCHEMES
from edge_lfm.kernels.spec.tiles import unpack_tiles
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.state import State
from edge_lfm.quantize.convert import convert, plan_conversion
from edge_lfm.quantize.recipe import find_recipe
from edge_lfm.quantize.screen import row_bounds

TIERS = [tier.name for tier in runnable_tiers()]
TASKS = Path(__file__).parent.parent / "edge_lfm" / "demo_model" / "tasks.jsonl"
SAMPLERS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "greedy with penalties": {
        "temperature": 0.0,
        "repeat_penalty": 1.3,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.2,
    },
    "greedy, repeats liked": {"temperature": 0.0, "repeat_penalty": 0.8, "presence_penalty": -1.0},
    "greedy with biases": {"temperature": 0.0, "logit_bias": {5: 30.0, 300: -100.0, 1001: 8.5, 4095: 100.0}},
    "greedy without repetitions": {"temperature": 0.0, "dry_multiplier": 0.8, "dry_allowed_length": 1},
    "as the model's card says": {"temperature": 0.3, "min_p": 0.15, "repeat_penalty": 1.05},
    "wide": {"temperature": 2.0, "min_p": 0.02, "repeat_penalty": 1.2},
    "top-k": {"temperature": 1.2, "top_k": 20, "top_p": 0.9},
    "top-k and min-p": {"temperature": 1.5, "top_k": 5, "top_p": 0.9, "min_p": 0.1},
    "without likely ones": {"temperature": 1.5, "min_p": 0.02, "xtc_probability": 0.6},
    "all tokens": {"temperature": 0.9, "top_p": 0.8},
}


def screened_recipe(folder: Path, name: str = "balanced", screen: str = "codebook4_g32") -> Path:
    """A recipe that has a screen beside what a built-in one has."""
    classes = dict(find_recipe(name).schemes.by_class) | {"screen": screen}
    path = folder / f"{name}-{screen}.toml"
    path.write_text("[schemes]\n" + "\n".join(f'{kind} = "{scheme}"' for kind, scheme in classes.items()))
    return path


@pytest.fixture(scope="session")
def screened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model as `balanced`, with a screen."""
    folder = tmp_path_factory.mktemp("screened")
    convert(demo_checkpoint(), folder / "demo", find_recipe(str(screened_recipe(folder))))
    return folder / "demo"


@pytest.fixture(scope="session")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Packs a tiny model of an odd vocabulary, with a screen; twins: the last ids have the rows of the first."""

    def make(case: str, vocab: int, twins: int = 0) -> Path:
        base = tmp_path_factory.mktemp("odd")
        source = write_checkpoint(base / "checkpoint", GOLDEN_CASES[case] | {"vocab_size": vocab})
        if twins:
            path = source / "model.safetensors"
            tensors = load_file(path)
            for name in [name for name in tensors if tensors[name].shape[0] == vocab]:
                tensors[name] = np.concatenate([tensors[name][:-twins], tensors[name][:twins]])
            save_file(tensors, path)
        convert(source, base / "packed", find_recipe(str(screened_recipe(base))))
        return base / "packed"

    return make


def greedy(vocab: int) -> Contenders:
    contenders = Sampler(SamplingOptions(), vocab).contenders()
    assert contenders is not None
    return contenders


def both_logits(folder: Path, ids: list[int], isa: str, threads: int = 1) -> Iterator[tuple[np.ndarray, ...]]:
    """Of each position the whole head's logits, those of a screened step, and how far they may be apart."""
    kernels = load_kernels(find_isa(isa))
    with PackedModel(folder) as model, Runner(model, kernels, threads, 64) as runner:
        screen, vocab = runner.binding.screen, model.shape.vocab
        assert screen is not None
        whole, screened = State(model.shape, len(ids)), State(model.shape, len(ids))
        for token in ids:
            exact = runner.run([Feed(whole, (token,))])[0][0]
            near = runner.run([Feed(screened, (token,), contenders=greedy(vocab))])[0][0]
            yield exact, near, screen.bounds * runner.step.input_norms[0]


def texts(demo_goldens: dict[str, dict], tasks: int) -> Iterator[list[int]]:
    """Token ids of the texts that other tests compare with, and of some tasks of the demo model with answers."""
    for golden in demo_goldens.values():
        yield [*golden["prompt_ids"], *golden.get("greedy_ids", ())]
    with Model.load() as model:
        lines = TASKS.read_text(encoding="utf-8").splitlines()
        for line in lines[:: len(lines) // tasks]:
            task = json.loads(line)
            yield model.encode_prompt(task["prompt"] + task["answer"], raw=True)


@pytest.mark.parametrize("isa", TIERS)
def test_greedy_is_exact_at_every_position(isa: str, screened: Path, demo_goldens: dict[str, dict]) -> None:
    positions = computed = 0
    for ids in texts(demo_goldens, 12 if isa == TIERS[0] else 1):
        for exact, near, apart in both_logits(screened, ids, isa):
            assert near.argmax() == exact.argmax() and near.max() == exact.max()
            assert (np.abs(near - exact) <= apart).all()
            positions, computed = positions + 1, computed + int((near == exact).sum())
    assert positions > 200
    assert computed < 0.5 * positions * len(exact)  # else this would test the whole head


@pytest.mark.parametrize("isa", TIERS)
@pytest.mark.parametrize(("case", "vocab"), [("moe", 1003), ("moe-untied-conv4", 1001), ("dense-group3", 17)])
def test_odd_vocabularies(case: str, vocab: int, isa: str, pack: Callable[..., Path]) -> None:
    ids = (goldens_tool.token_ids(case) % vocab).tolist()
    for exact, near, apart in both_logits(pack(case, vocab), ids, isa, threads=3):
        assert near.shape == (vocab,) and near.argmax() == exact.argmax()
        assert (np.abs(near - exact) <= apart).all()


def test_of_equal_logits_the_lowest_id_is_taken(pack: Callable[..., Path]) -> None:
    folder, taken = pack("moe-untied-conv4", 163, twins=80), set()
    for exact, near, _ in both_logits(folder, list(range(80)), TIERS[0]):
        best = np.flatnonzero(exact == exact.max())
        assert near.argmax() == best[0]
        taken.add(len(best))
    assert 2 in taken


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_draws_what_it_draws_from_the_whole_head(
    name: str, screened: Path, demo: dict[str, Path]
) -> None:
    prompts = ("Write a short story about a pony called Oscar.", "What is the capital of France?")
    with Model.load(demo["balanced"], threads=1) as plain, Model.load(screened, threads=1) as model:
        for seed, prompt in enumerate(prompts * 2):
            options = SAMPLERS[name] | {"seed": seed, "max_tokens": 60}
            assert model.generate(prompt, **options).token_ids == plain.generate(prompt, **options).token_ids
        assert (model.backend.exact_tiles > 0) == (name != "all tokens")


@pytest.mark.parametrize(
    "options",
    [
        {"schema": {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}},
        {"regex": "[a-z]{2,9}( [a-z]+){1,4}", "temperature": 1.0, "min_p": 0.05},
        {"bad_words": ["Paris"], "min_tokens": 12},
        {"logprobs": 4},
        {"logprobs": 2, "temperature": 0.7, "min_p": 0.1},
        {"lookup": 4},
    ],
)
def test_grammars_and_log_probabilities_are_those_of_the_whole_head(
    options: dict[str, Any], screened: Path, demo: dict[str, Path]
) -> None:
    told = []
    for folder in (demo["balanced"], screened):
        with Model.load(folder, threads=1) as model:
            answers = [model.generate("What is the capital of France?", seed=n, **options) for n in range(4)]
            told.append([(a.text, a.token_ids, a.logprobs) for a in answers])
    assert told[0] == told[1]


def test_an_answer_is_the_same_in_company_and_when_paged(screened: Path) -> None:
    """One of the company needs the whole head, which is then multiplied for all."""
    prompts = ("Tell a story about a cat.", "What is the capital of Spain?", "Name a color.")
    options: list[dict[str, Any]] = [{"temperature": 0.0}, {"seed": 1}, {"temperature": 1.0, "top_p": 0.9, "seed": 2}]

    def answers(model: Model, workers: int) -> list[tuple[int, ...]]:
        with ThreadPoolExecutor(workers) as pool:
            asked = [pool.submit(model.generate, p, max_tokens=40, **o) for p in prompts for o in options]
            return [answer.result().token_ids for answer in asked]

    with Model.load(screened, threads=2) as model:
        alone = answers(model, 1)
    with Model.load(screened, threads=2, parallel=4) as model:
        assert answers(model, 9) == alone
    with Model.load(screened, threads=2, context=512, ram=paging_ram(screened, 512)) as model:
        assert answers(model, 1) == alone


def test_bounds_are_those_of_the_definition(screened: Path) -> None:
    """What the file holds, of every row; and products in NumPy keep to it, those of the worst activations too."""
    with PackedModel(screened) as model:
        tensor = model.tensors["model.embed_tokens.weight"]
        assert tensor.screen is not None
        stored, head = model.bytes_of(tensor.name), tensor.matrices[0]
        parts = np.split(stored, np.cumsum([head.nbytes, tensor.screen.nbytes]))
        exact, coarse = (
            unpack_tiles(part, SCHEMES[matrix.scheme], matrix.rows, matrix.cols)
            for part, matrix in zip(parts, (head, tensor.screen), strict=False)
        )
        bounds = parts[2].view(np.float32)
        wrong = exact.values() - coarse.values()
        assert np.array_equal(bounds, row_bounds(exact.values(), coarse.values()))
        assert (bounds >= np.linalg.norm(wrong, axis=1)).all() and bounds.max() < 1.1 * np.linalg.norm(
            wrong, axis=1
        ).max()
        x = np.concatenate([wrong[:50], np.random.default_rng(0).standard_normal((50, head.cols), np.float32)])
        apart = np.abs(ref.multiply(exact, x) - ref.multiply(coarse, x))
        norms = np.linalg.norm(ref.quantize_rows(x).values(), axis=1)
        assert (apart <= bounds * norms[:, None]).all()
        assert (apart[:50].max(axis=1) > 0.9 * np.min(bounds) * norms[:50]).all()


def test_what_matters_within_bounds_is_made_exact() -> None:
    """Against brute force on drawn numbers, with wide bounds: the screen's best is rarely the best."""
    rng = np.random.default_rng(3)
    for _ in range(200):
        exact = rng.standard_normal((2, 75)).astype(np.float32).round(1)
        bounds = rng.uniform(0, 0.5, 75).astype(np.float32)
        logits = exact + bounds * rng.uniform(-1, 1, exact.shape).astype(np.float32)
        for tiles in missing_tiles(logits, np.ones(2), bounds, [greedy(75), greedy(75)]):
            for row, tile in tiles:
                logits[row, 16 * tile : 16 * tile + 16] = exact[row, 16 * tile : 16 * tile + 16]
        assert np.array_equal(logits.argmax(axis=1), exact.argmax(axis=1))


@pytest.mark.parametrize(
    ("name", "screen"), [("balanced", "int8_g32"), ("int8", "float32"), ("small", "codebook4_g16")]
)
def test_a_screen_that_saves_nothing_is_refused(name: str, screen: str, tmp_path: Path) -> None:
    recipe = find_recipe(str(screened_recipe(tmp_path, name, screen)))
    with pytest.raises(UnsupportedModelError, match="class screen has the scheme"):
        plan_conversion(demo_checkpoint(), recipe)


def test_a_config_that_names_a_screen_more_or_less_is_refused(
    screened: Path, demo: dict[str, Path], tmp_path: Path
) -> None:
    for source, screen in ((screened, None), (demo["balanced"], "codebook4_g32")):
        folder = tmp_path / source.name
        shutil.copytree(source, folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        schemes = config["quantization_config"]["schemes"]
        config["quantization_config"]["schemes"] = {k: v for k, v in schemes.items() if k != "screen"}
        if screen:
            config["quantization_config"]["schemes"]["screen"] = screen
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        (folder / LIST).unlink()
        with pytest.raises(ModelFileError):
            PackedModel(folder)
