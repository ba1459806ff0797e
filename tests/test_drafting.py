"""Answers with drafts: the text of plain decoding whoever drafts, the computed number of rounds, and the same state."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drafting import Scripted, drafter_config, packed_drafter, rounds_of, write_drafter
from stepping import paging_ram
from test_engine import FLOAT16_STEP, divergence

from edge_lfm import Completion, Model
from edge_lfm.cli.main import main
from edge_lfm.demo import packed_demo_drafter
from edge_lfm.engine import session_file
from edge_lfm.engine.draft_costs import FIRST_PAUSE, MAX_LOSS, StepCosts, StepTook, Switch
from edge_lfm.engine.draft_model import Block, DraftModel
from edge_lfm.engine.drafts import decode_with_drafts
from edge_lfm.engine.generate import Timings
from edge_lfm.engine.runner import Runner
from edge_lfm.engine.sampling import Sampler, SamplingOptions
from edge_lfm.engine.sequence import TokenSequence
from edge_lfm.errors import DrafterError, EdgeLfmError, ModelFileError, SessionFileError, UsageError
from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.kernels.spec.isa import find_isa, runnable_tiers
from edge_lfm.memory.scratch import blocks_together
from edge_lfm.model.packed_drafter import PackedDrafter
from edge_lfm.model.packed_model import PackedModel, UnpackedWeights
from edge_lfm.model.reference import ReferenceModel
from edge_lfm.model.reference_drafter import ReferenceDrafter
from edge_lfm.model.state import State
from edge_lfm.quantize.convert import convert
from edge_lfm.quantize.recipe import find_recipe

TIERS = [tier.name for tier in runnable_tiers()]
PROMPT = list(range(5, 40))
LONG = "The cat sat on the mat. Dogs bark, and the sun sets in the west. " * 4 + "What is the capital of France?"
WAYS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 1.1, "seed": 7, "top_k": 30},
    {"temperature": 0.9, "seed": 3, "repeat_penalty": 1.3},
    {"temperature": 0.0, "logprobs": 2},
)


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine the rows of a step may take longer to sample than others wait for: rounds are then shorter."""
    monkeypatch.setattr("edge_lfm.engine.drafts.MAX_SAMPLING_S", 60.0)


@pytest.fixture(scope="module")
def drafter(demo: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random drafter for the demo model, which is nearly never right."""
    return packed_drafter(tmp_path_factory.mktemp("drafter"), demo["int4"])


@pytest.fixture(scope="module", params=["float16", "int8"])
def pair(request: pytest.FixtureRequest, demo: dict[str, Path], drafter: Path) -> Iterator[tuple[Model, Model]]:
    """The demo model without and with a drafter, with both types of caches."""
    kept = request.param
    with (
        Model.load(demo["int4"], threads=1, kv_dtype=kept, context=256, cache=1) as plain,
        Model.load(demo["int4"], threads=2, kv_dtype=kept, context=256, draft=drafter) as drafting,
    ):
        yield plain, drafting


def same(a: Completion, b: Completion) -> bool:
    return (a.token_ids, a.finish_reason, a.logprobs) == (b.token_ids, b.finish_reason, b.logprobs)


@pytest.mark.parametrize("isa", TIERS)
@pytest.mark.parametrize("recipe", ["float32", "int8", "balanced"])
@pytest.mark.parametrize("case", ["one-layer", "two-layers", "five-taps", "half-turns"])
def test_compiled_drafts_are_those_of_the_reference(
    case: str, recipe: str, isa: str, packed_cases: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    """Slot by slot, after prompts read in parts and rows that were undone; each slot of the reference follows the
    compiled drafts, as one that differs would change all behind it. Where activations are rounded, one may fall on the
    other side, a step of int8 away: then logits stay closer to the reference than that stays to float activations, as
    in test_engine.py, and drafts differ only where its two best are nearer than all that rounding moves a logit."""
    folder = packed_cases[recipe]["moe"]
    ids, rounds = np.random.default_rng(2).integers(0, 96, 60), list[tuple[np.ndarray, ...]]()
    with PackedModel(folder) as model, PackedDrafter(packed_drafter(tmp_path, folder, recipe, case)) as packed:
        packed.check_target(model)
        of_integers, of_floats = (_reference_logits(model, packed, ids, integers) for integers in (True, False))
        with Runner(model, load_kernels(find_isa(isa)), 2, 48) as runner:
            runner.use_drafter(packed)
            sequence, drafting = TokenSequence(runner.new_state(96)), runner.drafting
            cache, beside = sequence.state.draft, _read_others(runner)
            assert drafting is not None and cache is not None
            for n in (1, 40, 41, 49, 57):
                while len(sequence.ids) < n:
                    feed = sequence.draft([*ids[len(sequence.ids) : n][:45], 1, 2][:47])
                    yielded = next(feed)
                    kept = len(yielded.token_ids) - 2
                    before = sequence.state.checkpoint()
                    with pytest.raises(StopIteration):
                        feed.send(runner.run([yielded])[0])
                    sequence.undo(sequence.state.checkpoint_after(before, kept))
                made, sure, found = _in_company(
                    drafting.model, Block(cache, n, int(ids[n]), packed.drafter.slots, 0.0), beside
                )
                rounds.append((np.array(made), found, np.array(sure), *of_integers(n, made), of_floats(n, made)[0]))
    made, found, sure, expected, expected_sure, floats = (np.concatenate(part) for part in zip(*rounds, strict=True))
    best, effect = np.sort(expected, axis=1), np.abs(floats - expected).max()
    clear = best[:, -1] - best[:, -2] > effect
    assert clear.any() and np.array_equal(made[clear], expected.argmax(1)[clear])
    if recipe == "float32":
        assert effect == 0 and clear.all()
        assert np.abs(found - expected).max() < FLOAT16_STEP * np.abs(expected).max()
    else:
        assert divergence(expected, found).mean() < divergence(floats, expected).mean() / 2
    assert np.abs(sure - expected_sure).max() < (1e-3 if recipe == "float32" else 0.04)


def _read_others(runner: Runner) -> list[Block]:
    """Of sequences of several lengths: what each asks of a drafter. The first tokens of the last were not seen."""
    blocks, rng = [], np.random.default_rng(4)
    for n in (3, 17, 30, 31, 20):
        state = runner.new_state(96)
        assert state.draft is not None
        cache, state.draft = state.draft, state.draft if n != 20 else None
        runner.read(rng.integers(0, 96, n).tolist(), state)
        if state.draft is None:
            state.draft = cache
            runner.read([5, 6, 7], state)
        blocks.append(Block(cache, state.position, n, 1 + n % 9, 0.0))
    return blocks


def _in_company(model: DraftModel, block: Block, beside: list[Block]) -> tuple[list[int], list[float], np.ndarray]:
    """What is drafted for a block, and its logits: to the bit the same alone and in one pass with others."""
    alone, logits = model.draft([block])[0], model.step.logit_rows.copy()
    others = [model.draft([one])[0] for one in beside]
    assert model.draft([beside[0], block, *beside[1:]]) == [others[0], alone, *others[1:]]
    slots = len(logits)
    together = blocks_together(slots)
    for count in (5, 6):  # the last one's first tokens were not seen
        model.draft([beside[0], block, *beside[1 : count - 1]])
        assert len(model.step.logit_rows) == slots * (count % together or together)
    model.draft([block, beside[0]])
    assert np.array_equal(model.step.logit_rows[:slots], logits)
    return *alone, logits


def _reference_logits(
    model: PackedModel, packed: PackedDrafter, ids: np.ndarray, integers: bool
) -> Callable[[int, list[int]], tuple[np.ndarray, np.ndarray]]:
    """`(tokens read, drafts) -> logits and confidences` of the reference. integers: it rounds activations."""
    target, streams = UnpackedWeights(model, integers), list[np.ndarray]()
    ReferenceModel(model.shape, target, np.float16).logits(ids, streams=streams)
    tapped = np.concatenate([streams[n] for n in packed.drafter.taps], 1)
    table, head = UnpackedWeights(model, False)("model.embed_tokens.weight"), target("model.embed_tokens.weight")
    weights = UnpackedWeights(packed, integers)

    def logits(n: int, drafts: list[int]) -> tuple[np.ndarray, np.ndarray]:
        reference = ReferenceDrafter(packed.drafter, weights, table, head, np.float16)
        reference.read(tapped[:n])
        return reference.logits(int(ids[n]), drafts)

    return logits


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("max_drafts", [1, 4, None])
def test_drafts_change_nothing(pair: tuple[Model, Model], way: dict[str, Any], max_drafts: int | None) -> None:
    plain, drafting = pair
    expected = plain.generate(PROMPT, max_tokens=40, ignore_eos=True, **way)
    found = drafting.generate(PROMPT, max_tokens=40, ignore_eos=True, max_drafts=max_drafts, **way)
    assert same(found, expected)
    assert found.timings.drafted == (39 - found.timings.accepted) * max_drafts if max_drafts else True


@pytest.mark.parametrize("right", [1.0, 0.0, 0.7])
@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("way", WAYS[:2])
def test_rounds_are_those_computed(
    pair: tuple[Model, Model], monkeypatch: pytest.MonkeyPatch, way: dict[str, Any], count: int, right: float
) -> None:
    """A drafter that always is right, one that never is, and one that often is."""
    plain, drafting = pair
    expected = plain.generate(PROMPT, max_tokens=50, ignore_eos=True, **way)
    steps, accepted = rounds_of(expected.token_ids, right, count)
    scripted = lambda *_: Scripted(expected.token_ids, right, count)  # noqa: E731
    monkeypatch.setattr("edge_lfm.engine.answering.model_drafter", scripted)
    found = drafting.generate(PROMPT, max_tokens=50, ignore_eos=True, **way)
    assert same(found, expected)
    assert (found.timings.steps, found.timings.accepted) == (steps, accepted)
    if right == 1.0:
        assert steps == -(-49 // (count + 1))
    if right == 0.0:
        assert (steps, accepted) == (49, 0)


@pytest.mark.parametrize("kv_dtype", ["float16", "int8"])
@pytest.mark.parametrize("right", [1.0, 0.6, 0.0])
def test_the_state_after_each_round_is_that_of_plain_feeding(
    kv_dtype: str, right: float, packed_cases: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    """To the bit: the target's conv inputs, keys and values, and the drafter's."""
    folder = packed_cases["balanced"]["moe"]
    with PackedModel(folder) as model, Runner(model, load_kernels(), 1) as runner:
        runner.use_drafter(PackedDrafter(packed_drafter(tmp_path, folder)))
        answer = plain_answer(runner, kv_dtype)
        sequence, followed = TokenSequence(runner.new_state(96, kv_dtype)), runner.new_state(96, kv_dtype)
        logits = runner.read(PROMPT, sequence.state)
        sequence.ids.extend(PROMPT)
        runner.read(PROMPT, followed)
        sampler = Sampler(SamplingOptions(temperature=0), runner.shape.vocab, PROMPT)
        drafter, given = Scripted(answer, right, 4), list[int]()
        steps = decode_with_drafts(
            sequence, logits, sampler, (), 30, Timings(), lambda token, _: given.append(token) is None, drafter, 4
        )
        feed, rounds = next(steps, None), 0
        while feed is not None:
            for token in sequence.ids[followed.position :]:
                runner.read([token], followed)
            assert equal_states(runner, sequence.state, followed)
            rounds += 1
            try:
                feed = steps.send(runner.run([feed])[0])
            except StopIteration:
                break
        assert given == answer and rounds >= 29 // 5


def plain_answer(runner: Runner, kv_dtype: str) -> list[int]:
    """Thirty greedy tokens after the prompt."""
    state = runner.new_state(96, kv_dtype)
    answer = [int(np.argmax(runner.read(PROMPT, state)))]
    while len(answer) < 30:
        answer.append(int(np.argmax(runner.read(answer[-1:], state))))
    return answer


def equal_states(runner: Runner, a: State, b: State) -> bool:
    """Whether two states that stand at one place hold the same, once the drafter has read what it has seen."""
    assert a.position == b.position and a.draft is not None and b.draft is not None and runner.drafting is not None
    a.draft.cut(a.position)
    runner.drafting.model.catch_up([a.draft, b.draft])
    assert a.draft.first == b.draft.first == 0 and b.draft.end == b.position <= a.draft.end
    conv = all(np.array_equal(a.conv[n], b.conv[n]) for n in a.conv)
    return conv and equal_caches(a, b, a.position) and equal_caches(a.draft.state, b.draft.state, a.position)


def equal_caches(a: State, b: State, positions: int) -> bool:
    for key, mine in a.caches.items():
        other = b.caches[key]
        if key[1] == "keys":  # [kv, blocks, hd, 16]
            mine, other = (np.moveaxis(x, 3, 2).reshape(len(x), -1, x.shape[2]) for x in (mine, other))
        if not np.array_equal(mine[:, :positions], other[:, :positions]):
            return False
    return True


@pytest.mark.parametrize("max_drafts", [3, None])
def test_answers_in_company_are_those_alone(pair: tuple[Model, Model], max_drafts: int | None) -> None:
    """Drafts of several sequences in one step; some answers have none."""
    plain, drafting = pair
    wishes = [
        (PROMPT[n : n + 20 + n], WAYS[n % 3] | {"max_drafts": 0 if n == 2 else max_drafts, "max_tokens": 20 + 3 * n})
        for n in range(6)
    ]
    expected = [plain.generate(ids, **{k: v for k, v in way.items() if k != "max_drafts"}) for ids, way in wishes]
    found: dict[int, Completion] = {}

    def ask(n: int) -> None:
        found[n] = drafting.generate(wishes[n][0], **wishes[n][1])

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(found[n], expected[n]) for n in range(6))


def turn(model: Model, folder: Path) -> Completion:
    session = model.session()
    session.send(LONG, max_drafts=0, max_tokens=20)
    return session.send("And in other words?", max_drafts=4, max_tokens=40, ignore_eos=True)


def fork(model: Model, folder: Path) -> Completion:
    session = model.session()
    session.send(LONG, lookup=3, max_tokens=20)
    session.send("And in other words?", max_drafts=0, max_tokens=20)
    session.undo()
    return session.fork().send("And in other words?", max_drafts=4, max_tokens=40, ignore_eos=True)


def file(model: Model, folder: Path) -> Completion:
    session = model.session()
    session.send(LONG, max_drafts=0, max_tokens=20)
    session.save(folder / "session")
    return model.restore(folder / "session").send("And in other words?", max_drafts=4, max_tokens=40, ignore_eos=True)


def pool(model: Model, folder: Path) -> Completion:
    model.generate(LONG, schema={"type": "integer"}, max_tokens=5)
    model.generate(LONG, max_drafts=0, max_tokens=5, lookup=2)
    return model.generate(LONG, max_drafts=4, max_tokens=40, ignore_eos=True)


@pytest.fixture(scope="module", params=["float16", "int8"])
def anew_and_reusing(request: pytest.FixtureRequest, demo: dict[str, Path]) -> Iterator[tuple[Model, Model]]:
    """With the demo model's own drafter, which is often right; the first keeps nothing of earlier prompts."""
    load: dict[str, Any] = {"draft": packed_demo_drafter(), "context": 512, "threads": 1, "kv_dtype": request.param}
    with Model.load(demo["int4"], cache=1, **load) as anew, Model.load(demo["int4"], **load) as reusing:
        yield anew, reusing


@pytest.mark.parametrize("way", [turn, fork, file, pool])
def test_what_was_read_without_drafts_is_drafted_from_all_the_same(
    anew_and_reusing: tuple[Model, Model], way: Callable[[Model, Path], Completion], tmp_path: Path
) -> None:
    """By the counters: as many drafts are right as where the whole prompt is read for this answer."""
    (anew, reusing), told = anew_and_reusing, []
    for model in (anew, reusing):
        answer = way(model, tmp_path)
        told.append((answer.token_ids, answer.timings.steps, answer.timings.drafted, answer.timings.accepted))
        assert (answer.timings.cached_tokens > 64) == (model is reusing)
    assert told[0] == told[1] and told[0][3] > 0


def test_a_drafter_that_is_off_sees_only_answers_that_ask_for_drafts(
    demo: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"max_tokens": 30, "ignore_eos": True}
    with Model.load(demo["int4"], draft=packed_demo_drafter(), context=512, threads=1) as model:
        on = model.generate(LONG, max_drafts=4, **options)
    monkeypatch.setattr(Switch, "looks_on", False)
    with Model.load(demo["int4"], draft=packed_demo_drafter(), context=512, threads=1) as model:
        asked = model.generate(LONG, max_drafts=4, **options)
        assert same(asked, on) and asked.timings.accepted == on.timings.accepted
        seen, look_on = list[int](), DraftModel.look_on
        monkeypatch.setattr(DraftModel, "look_on", lambda *asked: seen.append(1) or look_on(*asked))
        other = "Dogs bark. " * 20
        plain = model.generate(other, max_drafts=0, **options)
        assert not seen
        late = model.generate(other, max_drafts=4, **options)  # the prefix was not seen
        assert same(late, plain) and late.timings.cached_tokens > 64 and seen


def test_what_was_seen_in_part_goes_along_with_forks_and_files(
    demo: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drafter has not seen the first question: what it keeps of the second one serves all who go on from there."""
    monkeypatch.setattr(Switch, "looks_on", False)
    load: dict[str, Any] = {"draft": packed_demo_drafter(), "context": 512, "threads": 1}
    options: dict[str, Any] = {"max_drafts": 4, "max_tokens": 30, "ignore_eos": True}
    kept, read = list[tuple[int, int]](), session_file._read_draft
    with Model.load(demo["int4"], **load) as model:
        session = model.session()
        session.send(LONG, max_tokens=5, max_drafts=0)
        session.send("What is the capital of France?", **options)
        session.save(tmp_path / "session")
        fork = session.fork()
        answers = [each.send("And of Spain?", **options) for each in (session, fork)]

    def note(*asked: Any) -> None:
        read(*asked)
        kept.append((asked[-1].first, asked[-1].end))

    monkeypatch.setattr(session_file, "_read_draft", note)
    with Model.load(demo["int4"], **load) as model:
        answers.append(model.restore(tmp_path / "session").send("And of Spain?", **options))
    assert all(same(answer, answers[0]) for answer in answers[1:])
    assert len({(answer.timings.drafted, answer.timings.accepted) for answer in answers}) == 1
    assert answers[0].timings.drafted > 0 and 64 < kept[0][0] < kept[0][1]


def test_a_file_of_another_drafter_or_of_none_is_read_on_without(
    demo: dict[str, Path], drafter: Path, tmp_path: Path
) -> None:
    load: dict[str, Any] = {"context": 512, "threads": 1}
    answers = []
    for draft in (packed_demo_drafter(), drafter, None):
        with Model.load(demo["int4"], draft=draft, **load) as model:
            session = model.session()
            session.send(LONG, max_tokens=20)
            session.save(tmp_path / "session")
        with Model.load(demo["int4"], draft=packed_demo_drafter(), **load) as model:
            answers.append(
                model.restore(tmp_path / "session").send(
                    "And in other words?", max_drafts=4, max_tokens=40, ignore_eos=True
                )
            )
            assert answers[-1].timings.cached_tokens > 64
    assert same(answers[1], answers[0]) and same(answers[2], answers[0])
    assert answers[2].timings.drafted > 0


@pytest.mark.parametrize("change", [{"first": -1}, {"read": 10**9}, {"first": 10**9}, {"read": 0}, {"read": "1"}])
def test_a_file_that_lies_about_a_drafter_is_refused(
    demo: dict[str, Path], change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Model.load(demo["int4"], draft=packed_demo_drafter(), context=512, threads=1) as model:
        session, describe = model.session(), session_file._describe_draft
        session.send(LONG, max_tokens=20)
        monkeypatch.setattr(session_file, "_describe_draft", lambda sequence: (describe(sequence) or {}) | change)
        session.save(tmp_path / "session")
        with pytest.raises(SessionFileError, match="not a session file"):
            model.restore(tmp_path / "session")


def test_grammars_stops_and_turns(pair: tuple[Model, Model]) -> None:
    plain, drafting = pair
    asked: tuple[dict[str, Any], ...] = (
        {"schema": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}},
        {"regex": "[a-z]{3,9} [0-9]{2}"},
        {"stop": "e", "temperature": 1.0, "seed": 5},
        {"prompt_logprobs": True, "logprobs": 1},
        {"lookup": 4},
    )
    for options in asked:
        expected = plain.generate("Tell me a story.", max_tokens=40, **options)
        assert same(drafting.generate("Tell me a story.", max_tokens=40, max_drafts=5, **options), expected)
    a, b = plain.session(), drafting.session()
    for question in ("What is the capital of France?", "And of Spain?", "Thank you."):
        expected, found = a.send(question, max_tokens=30), b.send(question, max_tokens=30, max_drafts=4)
        assert same(found, expected) and (found.timings.drafted or len(found.token_ids) < 2)


def test_drafts_end_with_the_context(demo: dict[str, Path], drafter: Path) -> None:
    with Model.load(demo["int4"], threads=1, context=48, draft=drafter) as small:
        plain = small.generate(PROMPT, max_tokens=100, ignore_eos=True, max_drafts=0)
        for count in (1, 7, 64):
            found = small.generate(PROMPT, max_tokens=100, ignore_eos=True, max_drafts=count)
            assert same(found, plain) and plain.timings.completion_tokens == 48 - len(PROMPT) + 1


def test_paged_models_draft_only_when_asked(demo: dict[str, Path], drafter: Path) -> None:
    ram = paging_ram(demo["int4"], 256, threads=1, draft=drafter)
    with Model.load(demo["int4"], threads=1, context=256, draft=drafter, ram=ram) as paged:
        assert paged.paging is not None
        plain = paged.generate(PROMPT, max_tokens=20, ignore_eos=True)
        asked = paged.generate(PROMPT, max_tokens=20, ignore_eos=True, max_drafts=3)
        assert same(plain, asked) and plain.timings.drafted == 0 < asked.timings.drafted


def test_other_targets_are_refused_by_name(
    demo: dict[str, Path], drafter: Path, packed_cases: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    other = packed_cases["int4"]["moe"]
    with pytest.raises(DrafterError, match=r"a vocabulary of 4096, .*moe has 160"):
        Model.load(other, draft=drafter)
    for name, change, what in (
        ("vocabulary", {"vocab_size": 128}, "a vocabulary of 128"),
        ("hidden", {"hidden_size": 128}, "a hidden size of 128"),
        ("layers", {"num_hidden_layers": 1}, "a target of so many layers: 40"),
    ):
        config = drafter_config(other) | change
        if name == "layers":
            config["dflash_config"] |= {"num_target_layers": 40}
        source = write_drafter(tmp_path / name, config)
        with pytest.raises(DrafterError, match=what):
            convert(source, tmp_path / "out", find_recipe("int4"), target=other)
    twin = json.loads((drafter / "config.json").read_text())
    assert twin["quantization_config"]["provenance"]["target"]["name"] == "demo_model"
    with Model.load(demo["balanced"], threads=1, draft=drafter):  # the same checkpoint, packed otherwise
        pass
    with PackedDrafter(drafter) as mine, PackedModel(demo["int4"]) as model:
        model.provenance = {"source": "other_model", "source_hash": "0" * 64}
        with pytest.raises(DrafterError, match=r"drafts for demo_model .* is other_model \(0{12}\)"):
            mine.check_target(model)


def test_what_is_no_drafter_is_refused(demo: dict[str, Path], drafter: Path, tmp_path: Path) -> None:
    source = write_drafter(tmp_path / "source", drafter_config(demo["int4"]))
    for refused, error, what in (
        (lambda: Model.load(drafter), ModelFileError, "is a drafter"),
        (lambda: Model.load(demo["int4"], draft=demo["int8"]), ModelFileError, "is no drafter"),
        (lambda: convert(source, tmp_path / "o", None), UsageError, "is a drafter .*--target"),
        (lambda: convert(source, tmp_path / "o", None, target=drafter), ModelFileError, "is a drafter"),
    ):
        with pytest.raises(error, match=what):
            refused()
    assert main(["quantize", str(source), "-o", str(tmp_path / "o")]) == UsageError.exit_code
    (source / "model.safetensors").unlink()
    with pytest.raises(EdgeLfmError):
        convert(source, tmp_path / "o", None, target=demo["int4"])
    assert not (tmp_path / "o").exists()


def test_costs_lie_between_those_measured() -> None:
    costs = StepCosts()
    assert costs.of(3) == 0
    costs.note(1, 1.0)
    assert costs.of(1) == 1.0 and costs.of(6) > costs.of(3) > 1.0
    costs.note(5, 3.0)
    assert costs.of(3) == 2.0 and costs.of(9) > 3.0
    costs.note(5, 300.0)  # something else ran
    assert costs.of(5) <= 3.3


def test_as_many_drafts_as_pay() -> None:
    costs = StepCosts()
    for rows, seconds in ((1, 1.0), (2, 1.1), (3, 1.2), (9, 1.8)):
        costs.note(rows, seconds)
    assert costs.best_counts([[0.9] * 8], 0, 0, 64) == [8]
    assert costs.best_counts([[0.9] * 8], 0, 0, 3) == [3]
    assert costs.best_counts([[0.9, 0.9, 0.01, 0.9]], 0, 0, 64) == [2]
    assert costs.best_counts([[0.05] * 8], 0, 0, 64) == [0]
    assert costs.best_counts([], 3, 2, 64) == []
    for rows, seconds in ((2, 2.0), (3, 3.0), (9, 9.0)):
        costs = StepCosts() if rows == 2 else costs
        costs.note(1, 1.0)
        costs.note(rows, seconds)
    assert costs.best_counts([[0.9] * 8], 0, 0, 64) == [0]


def test_rows_go_to_the_answers_whose_drafts_are_likeliest() -> None:
    """Against every choice of counts."""
    rng, costs = np.random.default_rng(0), StepCosts()
    for rows, seconds in ((1, 1.0), (2, 1.3), (4, 1.7), (8, 2.2), (12, 3.5)):
        costs.note(rows, seconds)
    for _ in range(50):
        sure = rng.uniform(0.3, 1.0, (3, 4)).tolist()
        other_rows, others, most = 2, 1, int(rng.integers(0, 13))
        rates = {}
        for counts in itertools.product(range(5), repeat=3):
            tokens = others + sum(1 + np.cumprod(row[:k]).sum() for row, k in zip(sure, counts, strict=True))
            if sum(counts) <= most:
                rates[counts] = tokens / costs.of(other_rows + 3 + sum(counts))
        found = tuple(costs.best_counts(sure, other_rows, others, most))
        assert rates[found] == pytest.approx(max(rates.values()), rel=1e-12)


def test_one_pass_drafts_for_all_answers_of_a_step(pair: tuple[Model, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has the drafts that it has alone, by the counters, and the passes are fewer than the rounds."""
    _, drafting = pair
    prompts = [np.random.default_rng(n).integers(96, 4000, 20 + n).tolist() for n in range(6)]
    wishes = [(ids, {"max_tokens": 40, "max_drafts": 3, "ignore_eos": True}) for ids in prompts]
    alone = [drafting.generate(ids, **way) for ids, way in wishes]
    blocks, once = list[int](), DraftModel._pass
    monkeypatch.setattr(DraftModel, "_pass", lambda model, some: blocks.append(len(some)) or once(model, some))
    queued = threading.Event()
    holding = threading.Thread(target=lambda: drafting.scheduler.call(queued.wait))
    holding.start()
    jobs = [drafting.submit(drafting.prepare(ids, **way)) for ids, way in wishes]
    queued.set()
    holding.join()
    found = [list(job)[-1][-1].completion for job in jobs]
    assert all(map(same, found, alone))
    assert [(c.timings.drafted, c.timings.accepted) for c in found] == [
        (c.timings.drafted, c.timings.accepted) for c in alone
    ]
    rounds = [c.timings.drafted // 3 for c in alone]
    assert sum(blocks) >= sum(rounds) and len(blocks) < sum(rounds) / 3


@pytest.mark.parametrize(("gained", "round_s"), [(1, 1.5), (1, 3.0), (2, 2.5), (1, 1.02)])
def test_a_drafter_that_loses_is_switched_off(gained: int, round_s: float) -> None:
    """Seconds of 100,000 tokens, beside a second each without drafts: 2 % more at most, from the 256th token on; and
    while it decides, two tokens' time and a round's."""
    switch, tokens, seconds = Switch(), 0, 0.0
    while tokens < 100_000:
        switch.costs.note(1, 1.0)
        if switch.wants(1):
            switch.costs.note(4, round_s - 0.1)
            switch.note_round(StepTook(1, 4, round_s - 0.1, 0.0), 1, 3, gained, 0.1)
            tokens, seconds = tokens + gained, seconds + round_s
        else:
            tokens, seconds = tokens + 1, seconds + 1.0
        assert seconds - tokens <= (0.02 * tokens if tokens >= 256 else MAX_LOSS + round_s - gained)


def test_a_drafter_is_not_blamed_for_a_machine_that_stood_still() -> None:
    """One step that took a hundred times as long counts as one that took twice as long."""
    switch = Switch()
    for n in range(100):
        switch.costs.note(1, 1.0)
        if switch.wants(1):
            step_s = 120.0 if n == 20 else 1.2
            switch.costs.note(4, step_s)
            switch.note_round(StepTook(1, 4, step_s, 0.0), 1, 3, 2, 0.1)
            assert switch.wants(1) or switch.looks_on
    assert switch.looks_on


def test_a_drafter_that_gains_stays_on() -> None:
    switch, drafted = Switch(), 0
    for _ in range(10_000):
        switch.costs.note(1, 1.0)
        if switch.wants(1):
            switch.costs.note(4, 1.3)
            switch.note_round(StepTook(1, 4, 1.3, 0.0), 1, 3, 2, 0.1)
            drafted += 1
    assert drafted > 9_800 and switch.looks_on and FIRST_PAUSE > 0
