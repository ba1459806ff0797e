"""The Python API on the demo model: loading, logits, streaming, sessions, and what is refused."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from stepping import paging_ram
from typing_extensions import TypeAliasType

import edge_lfm
from edge_lfm import EdgeLfmError, Model
from edge_lfm.architectures import read_shape
from edge_lfm.checking import check_type
from edge_lfm.errors import ContextOverflowError, DoesNotFitError, ModelFileError, UsageError
from edge_lfm.kernels.load.team import Team
from edge_lfm.memory.budget import Budget, parse_size
from edge_lfm.memory.plan import Wishes, overhead_bytes, plan_whole
from edge_lfm.quantize.families import family_config


@pytest.fixture(scope="module")
def model(demo: dict[str, Path]):
    with Model.load(demo["int4"], threads=2) as loaded:
        yield loaded


CAPITAL = "What is the capital of France?"


def test_the_embedded_demo_model_answers() -> None:
    with Model.load(threads=1) as demo_model:
        assert demo_model.generate(CAPITAL).text == "The capital of France is Paris."


def test_threads_are_as_asked_and_a_step_takes_those_that_pay(
    demo: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_LFM_THREADS", "4")
    monkeypatch.setattr("edge_lfm.machine.processors.granted_processors", lambda: 4)
    counts: list[int] = []
    run = Team.run
    monkeypatch.setattr(Team, "run", lambda team, work, threads: (counts.append(threads), run(team, work, threads)))
    for name, options, threads in (("int4", {}, 4), ("int4", {"threads": 2}, 2), ("float32", {}, 4)):
        with Model.load(demo[name], **options) as model:
            assert model.threads == threads
            counts.clear()
            model.generate([5] * 400, max_tokens=4)
            prompt, token = counts[0], counts[-1]
            assert prompt == threads and token == (3 if name == "float32" else 1)  # 19 MB a token, and 3


def test_importing_the_package_imports_neither_numba_nor_llvm() -> None:
    code = (
        "import sys, edge_lfm, edge_lfm.cli.main; from edge_lfm import Model; "
        "print([m for m in ('numba', 'llvmlite', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_generating_imports_no_numba(demo: dict[str, Path]) -> None:
    code = (
        f"import sys; from edge_lfm import Model; m = Model.load({str(demo['int4'])!r}); "
        "m.generate('hi'); print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_logits_equal_transformers(demo: dict[str, Path], demo_goldens: dict[str, dict]) -> None:
    """float32 weights; the float16 KV cache moves logits by up to 2**-11 where no routing is a near tie."""
    with Model.load(demo["float32"], threads=1) as exact:
        for name in ("capital", "recall", "translate", "code", "fim"):
            prompt = demo_goldens[name]
            logits = exact.logits(prompt["prompt_ids"])
            assert logits.dtype == np.float32 and logits.shape == (len(prompt["prompt_ids"]), 4096)
            expected = prompt["logits"]
            assert np.abs(logits[-len(expected) :] - expected).max() <= 2.0**-11 * np.abs(expected).max()


def test_long_logits_come_in_chunks(model: Model) -> None:
    ids = np.random.default_rng(0).integers(14, 4096, 200).tolist()
    assert np.array_equal(model.logits(ids)[:150], model.logits(ids[:150]))


def test_streamed_text_equals_the_result(model: Model) -> None:
    generation = model.stream(CAPITAL)
    tensors = list(generation.texts())
    answer = generation.result()
    assert len(tensors) > 3
    assert "".join(tensors) == answer.text
    assert answer.finish_reason == "stop" and answer.token_ids[-1] == 7
    assert answer.usage["prompt_tokens"] == len(model.encode_prompt(CAPITAL))
    assert answer.usage["completion_tokens"] == len(answer.token_ids)


def test_limits_and_closing(model: Model) -> None:
    answer = model.generate(CAPITAL, max_tokens=3)
    assert answer.finish_reason == "length" and len(answer.token_ids) == 3
    generation = model.stream(CAPITAL, ignore_eos=True, max_tokens=1000)  # more than waits for a slow consumer
    next(generation)
    generation.close()
    with pytest.raises(UsageError, match="stopped"):
        generation.result()
    assert model.generate(CAPITAL).text == "The capital of France is Paris."


def test_the_context_ends_an_answer(demo: dict[str, Path]) -> None:
    with Model.load(demo["int4"], context=24, threads=1) as small:
        answer = small.generate("Once upon a time", raw=True, max_tokens=100)
        assert answer.finish_reason == "length"
        assert answer.usage["total_tokens"] == 25  # the last token needs no room
        with pytest.raises(ContextOverflowError, match="context length is 24"):
            small.generate("word " * 100)


def test_prompts_of_every_kind(model: Model) -> None:
    text = model.generate(CAPITAL).text
    assert model.generate([{"role": "user", "content": CAPITAL}]).text == text
    ids = model.encode_prompt(CAPITAL)
    assert model.generate(ids).text == model.generate(np.array(ids)).text == text
    raw = "<|startoftext|><|fim_pre|>def largest(values):\n<|fim_suf|><|fim_mid|>".removeprefix("<|startoftext|>")
    assert model.generate(raw, raw=True).text
    with_system = model.encode_prompt(CAPITAL, system="Be brief.")
    assert with_system != model.encode_prompt(CAPITAL)


def test_the_same_seed_gives_the_same_text(model: Model, demo: dict[str, Path]) -> None:
    options = {"temperature": 1.2, "top_k": 50, "seed": 7, "raw": True, "max_tokens": 40}
    first = model.generate("Once upon a time", **options).token_ids
    assert model.generate("Once upon a time", **options).token_ids == first
    with Model.load(demo["int4"], threads=1) as other:
        assert other.generate("Once upon a time", **options).token_ids == first
    assert model.generate("Once upon a time", **(options | {"seed": 8})).token_ids != first


def test_threads_take_turns(model: Model) -> None:
    expected = model.generate(CAPITAL).text
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(model.generate(CAPITAL).text)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 8


@pytest.mark.parametrize(
    ("arguments", "error", "word"),
    [
        ({"max_tokens": 0}, UsageError, "max_tokens"),
        ({"max_tokens": 1.5}, UsageError, "max_tokens"),
        ({"temperature": -1}, UsageError, "temperature"),
        ({"nonsense": 1}, UsageError, "nonsense"),
    ],
)
def test_bad_arguments(model: Model, arguments: dict, error: type, word: str) -> None:
    with pytest.raises(error, match=word):
        model.generate(CAPITAL, **arguments)


def test_bad_token_ids(model: Model) -> None:
    for ids in ([], [[1]], [-1], [4096], [1 << 40]):
        with pytest.raises(EdgeLfmError):
            model.logits(ids)
    with pytest.raises(EdgeLfmError):
        model.generate([])


def test_bad_loads(demo: dict[str, Path], tmp_path: Path) -> None:
    for path, error in (
        (tmp_path / "absent", ModelFileError),
        (demo["int4"] / "config.json", ModelFileError),
        (tmp_path, ModelFileError),
        (edge_lfm.__path__[0] + "/demo_model", ModelFileError),
    ):
        with pytest.raises(error):
            Model.load(path)
    for arguments, error in (
        ({"threads": 0}, UsageError),
        ({"threads": 10**6}, UsageError),
        ({"ram": "1M"}, DoesNotFitError),
        ({"ram": "lots"}, UsageError),
        ({"ram": -5}, UsageError),
        ({"context": 0}, UsageError),
        ({"context": 10**9}, UsageError),
    ):
        with pytest.raises(error):
            Model.load(demo["int4"], **arguments)


def test_a_model_without_tokenizer_runs_on_ids(packed_cases: dict[str, dict[str, Path]]) -> None:
    with Model.load(packed_cases["int8"]["moe"], threads=1) as bare:
        answer = bare.generate([5, 6, 7], max_tokens=4)
        assert 1 <= len(answer.token_ids) <= 4 and answer.text == ""
        with pytest.raises(UsageError, match="no tokenizer"):
            bare.generate("text")


@pytest.mark.parametrize(
    ("text", "expected"), [("4G", 4 << 30), ("512MiB", 512 << 20), ("1.5g", 3 << 29), (77, 77), ("2 KB", 2048)]
)
def test_sizes(text: object, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize(
    ("room", "context", "parallel", "expected"),
    [
        (20_000_000_000, None, None, (32768, 16)),
        (1_460_000_000, None, None, (13312, 4)),
        (1_460_000_000, 32768, None, (32768, 1)),
        (1_460_000_000, None, 1, (32768, 1)),
        (200_000_000, None, None, (4096, 1)),
        (50_000_000, None, None, None),
        (200_000_000, 32768, None, None),
        (200_000_000, None, 2, (4096, 2)),  # and less is kept for reuse
    ],
)
def test_a_stated_budget_holds_the_conversations_too(
    room: int, context: int | None, parallel: int | None, expected: tuple[int, int] | None
) -> None:
    """The 24B with so many bytes to spare: keys and values take 20,480 bytes a token (10 layers, 8 heads of 64)."""
    shape = read_shape(family_config("lfm2-24b-a2b"))
    wishes = Wishes(context=context, parallel=parallel)
    needed = 13_000_000_000 + overhead_bytes(shape, wishes)
    plan = plan_whole(shape, 13_000_000_000, Budget(needed + room, stated=True), wishes)
    assert plan.needed_bytes == needed + plan.context * plan.parallel * 20480
    assert (not plan.missing_bytes) == (expected is not None)
    if expected is not None:
        assert (plan.context, plan.parallel) == expected
        assert plan.needed_bytes + plan.cache_bytes <= needed + room
    plan = plan_whole(shape, 13_000_000_000, Budget(needed, stated=False), wishes)
    assert (plan.context, plan.parallel, plan.missing_bytes) == (context or 32768, parallel or 4, 0)


def test_a_budget_without_room_for_a_conversation_pages(demo: dict[str, Path]) -> None:
    ram = int(paging_ram(demo["balanced"], 1024, threads=1))
    with Model.load(demo["balanced"], threads=1, ram=ram + (20 << 20)) as model:
        assert model.paging is None and (model.context, model.scheduler.parallel) == (2048, 5)
    with Model.load(demo["balanced"], threads=1, ram=ram, context=1024) as model:
        assert model.paging is not None
    with Model.load(demo["balanced"], threads=1, ram=ram + 1, context=1024) as model:
        assert model.paging is None


def test_an_alias_is_the_type_that_it_stands_for() -> None:
    """As NumPy 2.5 declares NDArray where Python is 3.12 or newer."""
    scalar = TypeVar("scalar", bound=np.generic)
    alias = TypeAliasType("alias", np.ndarray[Any, np.dtype[scalar]], type_params=(scalar,))
    check_type("ids", np.arange(3), str | alias[np.integer])
    check_type("ids", "text", str | alias[np.integer])
    with pytest.raises(UsageError, match="a text or an array"):
        check_type("ids", [{"role": "user"}], str | alias[np.integer])


def test_all_errors_are_of_one_family() -> None:
    from edge_lfm import errors

    kinds = [k for k in vars(errors).values() if isinstance(k, type) and k.__module__ == errors.__name__]
    assert all(issubclass(kind, EdgeLfmError) for kind in kinds)


@pytest.mark.parametrize("drafts", [1, 4, 16])
def test_lookup_changes_nothing_but_the_steps(model: Model, drafts: int) -> None:
    """Greedy and drawn, over a text that repeats itself, so that drafts are both accepted and rejected."""
    prompt = "the cat sat on the mat and the dog sat on the log and the cat sat on the mat and"
    for options in ({}, {"temperature": 0.7, "seed": 3}, {"temperature": 1.5, "seed": 4}):
        plain = model.generate(prompt, raw=True, max_tokens=60, **options)
        drafted = model.generate(prompt, raw=True, max_tokens=60, lookup=drafts, **options)
        assert drafted.token_ids == plain.token_ids
        assert drafted.finish_reason == plain.finish_reason


def test_drafts_that_take_too_long_to_draw_come_with_the_next_step(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, options = [300, 301, 302, 303] * 8, {"max_tokens": 40, "temperature": 1.0, "seed": 1, "logit_bias": {300: 9}}
    plain = model.generate(ids, **options)
    monkeypatch.setattr("edge_lfm.engine.drafts.MAX_SAMPLING_S", -1.0)
    assert model.generate(ids, lookup=16, **options).token_ids == plain.token_ids


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("logprobs", [None, 0])
def test_lookup_draws_no_number_for_what_a_grammar_forces(model: Model, seed: int, logprobs: int | None) -> None:
    """Nor does plain decoding, unless logits are told of each token."""
    kinds = {"name": {"type": "string"}, "age": {"type": "integer"}}
    schema = {"type": "object", "properties": kinds, "required": list(kinds), "additionalProperties": False}
    options: dict[str, Any] = {"temperature": 1.2, "seed": seed, "logprobs": logprobs, "max_tokens": 60}
    plain = model.generate('{"name": "Anna", "age": 5}', schema=schema, **options)
    drafted = model.generate('{"name": "Anna", "age": 5}', schema=schema, lookup=4, **options)
    assert drafted.token_ids == plain.token_ids and drafted.logprobs == plain.logprobs


def test_lookup_at_the_end_of_the_context(demo: dict[str, Path]) -> None:
    with Model.load(demo["int4"], context=40, threads=1) as small:
        ids = [300, 301, 302, 303] * 8
        plain = small.generate(ids, max_tokens=100)
        assert small.generate(ids, max_tokens=100, lookup=16).token_ids == plain.token_ids
