"""Sliding layers keep a ring of keys and values: nothing that a sequence does tells it from keeping all of them.

The oracles are the same kernels with rings as long as the sequence, transformers on long prompts (`make_goldens.py`),
and, of files of earlier versions, those files as they were written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import DATA, GOLDEN_CASES, goldens_tool, write_checkpoint
from stepping import all_rows
from test_engine import FLOAT16_STEP, reference_logits
from test_reference import TOLERANCE, reference_of

from edge_lfm import Model
from edge_lfm.architectures import read_shape
from edge_lfm.demo import demo_checkpoint
from edge_lfm.engine import sequence as sequences
from edge_lfm.engine.feeds import Steps, T, run_alone
from edge_lfm.engine.pool import SequencePool
from edge_lfm.engine.runner import Runner
from edge_lfm.engine.sequence import TokenSequence, nbytes_at
from edge_lfm.engine.session_file import load_sequence, save_sequence
from edge_lfm.errors import UsageError
from edge_lfm.formats.checkpoint import TOKENIZER_FILES
from edge_lfm.formats.packed import PackedWriter, TensorSpec
from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.kernels.spec.isa import find_isa, runnable_tiers
from edge_lfm.kernels.spec.layout import LAYOUT_VERSION
from edge_lfm.memory import caches
from edge_lfm.memory.caches import CacheSizes, position_bytes
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.state import State
from edge_lfm.quantize.convert import convert
from edge_lfm.quantize.families import PUBLISHED, family_config
from edge_lfm.quantize.recipe import find_recipe

TIERS = [tier.name for tier in runnable_tiers()]
CASES = {"lfm3": 11, "lfm3-attention-only": 19, "lfm3-window-beyond-the-prompt": 64, "lfm3-window-of-one": 1}
CHUNK, RING, TOKENS, CONTEXT = 48, 256, 600, 8192
IDS = np.random.default_rng(24).integers(0, 160, TOKENS)


@pytest.fixture(scope="module")
def runner(packed_cases: dict[str, dict[str, Path]]) -> Iterator[Runner]:
    with PackedModel(packed_cases["int8"]["lfm3"]) as model, Runner(model, load_kernels(), 2, CHUNK) as runner:
        yield runner


@pytest.fixture(scope="module")
def expected(runner: Runner) -> dict[str, np.ndarray]:
    """kv_dtype -> the logits of every token, from caches that keep all keys and values."""
    return {kv_dtype: whole_rows(runner, IDS, kv_dtype) for kv_dtype in ("float16", "int8")}


def whole_rows(runner: Runner, ids: np.ndarray, kv_dtype: str) -> np.ndarray:
    state = State(runner.shape, TOKENS, kv_dtype, TOKENS)
    assert not state.ring  # it would take more than so short a context
    return np.concatenate([all_rows(runner, ids[n : n + CHUNK], state) for n in range(0, len(ids), CHUNK)])


def run(runner: Runner, steps: Steps[T]) -> T:
    return run_alone(steps, runner.run)


def reading(runner: Runner, kv_dtype: str, count: int, turns: tuple[int, ...] = ()) -> TokenSequence:
    """A sequence that has read the first tokens, in steps of an odd size."""
    sequence = TokenSequence(runner.new_state(CONTEXT, kv_dtype))
    while (first := len(sequence.ids)) < count:
        part = IDS[first : min(count, first + 37)].tolist()
        run(runner, sequence.read(part, [t for t in turns if first < t <= first + len(part)], last=False))
    return sequence


def goes_on(runner: Runner, sequence: TokenSequence, expected: np.ndarray) -> None:
    """What follows in a sequence is what follows in one that kept everything."""
    first = len(sequence.ids)
    assert sequence.state.position == first
    rows = [run(runner, sequence.draft(part.tolist()))[1] for part in np.array_split(IDS[first:], 20) if len(part)]
    assert np.array_equal(np.concatenate(rows), expected[first:])


@pytest.mark.parametrize("isa", TIERS)
@pytest.mark.parametrize("kv_dtype", ["float16", "int8"])
@pytest.mark.parametrize("case", CASES)
def test_bits_are_those_of_all_keys(
    case: str, kv_dtype: str, isa: str, packed_cases: dict[str, dict[str, Path]]
) -> None:
    """In steps of any size and by any number of threads, far beyond the ring."""
    rng = np.random.default_rng(len(case))
    kernels = load_kernels(find_isa(isa))
    with PackedModel(packed_cases["int8"][case]) as model:
        with Runner(model, kernels, 1, CHUNK) as runner:
            expected = whole_rows(runner, IDS, kv_dtype)
        for threads in (1, 2):
            with Runner(model, kernels, threads, CHUNK) as runner:
                state, rows = runner.new_state(CONTEXT, kv_dtype), list[np.ndarray]()
                while state.position < TOKENS:
                    count = int(rng.choice([1, 3, 17, CHUNK - 1, CHUNK]))
                    rows.append(all_rows(runner, IDS[state.position : state.position + count], state))
                assert np.array_equal(np.concatenate(rows), expected)
                window = runner.shape.window
                assert state.ring == RING and window == CASES[case]
                assert {state.room(n) for n, a in runner.shape.attentions.items() if a.window} == {RING}


@pytest.mark.parametrize("case", goldens_tool.LONG_CASES)
def test_long_prompts_equal_transformers(
    case: str, packed_cases: dict[str, dict[str, Path]], case_checkpoints: dict[str, Path]
) -> None:
    """Within what the float16 of keys and values costs, as short ones (`test_engine.py`): the reference says how much
    that is, which is within its 1e-4 without."""
    ids = goldens_tool.token_ids(case, goldens_tool.LONG_TOKENS)
    with np.load(DATA / "long_goldens.npz") as file:
        golden = file[case]
    with PackedModel(packed_cases["float32"][case]) as model, Runner(model, load_kernels(), 1, CHUNK) as runner:
        state = runner.new_state(CONTEXT)
        rows = [all_rows(runner, ids[n : n + CHUNK], state) for n in range(0, len(ids), CHUNK)]
    found, largest = np.concatenate(rows)[goldens_tool.LONG_ROWS], np.abs(golden).max()
    rounded = reference_logits(packed_cases["float32"][case], ids)[goldens_tool.LONG_ROWS]
    assert np.abs(found - golden).max() <= max(FLOAT16_STEP * largest, 1.1 * np.abs(rounded - golden).max())
    exact = reference_of(case_checkpoints[case]).logits(ids)[goldens_tool.LONG_ROWS]
    assert np.abs(exact - golden).max() <= TOLERANCE * largest


@pytest.mark.parametrize("kv_dtype", ["float16", "int8"])
def test_every_place_is_in_reach(
    kv_dtype: str, runner: Runner, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Forks, steps back and sessions, from before the ring was full, across its end, and at its newest position."""
    turns = (5, 100, 255, 256, 257, 300, 500, 511, 513)
    sequence = reading(runner, kv_dtype, 520, turns)
    assert {*turns} <= sequence.checkpoints.keys() and sequence.state.oldest > 256
    save_sequence(tmp_path / "kept", sequence, "m", None)
    loaded, _ = load_sequence(tmp_path / "kept", runner.new_state(CONTEXT, kv_dtype), "m", 160)
    assert loaded is not None and loaded.checkpoints.keys() == sequence.checkpoints.keys()
    for source in (sequence, loaded):
        for place in (5, 256, 300, 511, 520):
            fork = source.fork(place, runner.new_state(CONTEXT, kv_dtype))
            goes_on(runner, fork, expected[kv_dtype])
        other = source.fork(513, runner.new_state(CONTEXT, kv_dtype))
        other.go_back(100)
        goes_on(runner, other, expected[kv_dtype])
        other.go_back(0)
        goes_on(runner, other, expected[kv_dtype])
    for place in (513, 300, 257, 5):
        sequence.go_back(place)
        run(runner, sequence.read([1, 2, 3] * 8))  # something else
        sequence.go_back(place)
    goes_on(runner, sequence, expected[kv_dtype])
    goes_on(runner, loaded, expected[kv_dtype])


@pytest.fixture
def large_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of a window takes more than a place may, and rings are no longer for it."""
    monkeypatch.setattr(caches, "MAX_CHECKPOINT_BYTES", 1)
    monkeypatch.setattr(caches, "MAX_CHECKPOINTS", 64)
    monkeypatch.setattr(caches, "MIN_CHECKPOINTS", 64)
    monkeypatch.setattr(caches, "REACH_BYTES", 0)


@pytest.mark.usefixtures("large_windows")
@pytest.mark.parametrize("kv_dtype", ["float16", "int8"])
def test_places_without_copies_are_in_reach_while_rings_hold_them(
    kv_dtype: str, runner: Runner, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """The window has 10 positions, the ring 256: of 520 tokens it holds the windows of places from 274 on."""
    turns = (5, 100, 273, 274, 300, 511, 513)
    sequence = reading(runner, kv_dtype, 520, turns)
    assert sequence.state.ring == RING and not sequence.copied_bytes
    assert set(turns) & sequence.checkpoints.keys() == {274, 300, 511, 513}
    assert not any(checkpoint.window for checkpoint in sequence.checkpoints.values())
    for place in (274, 300, 513):
        fork = sequence.fork(place, runner.new_state(CONTEXT, kv_dtype))
        assert fork.checkpoints.keys() == {place}  # its rings have that window, and none before it
        goes_on(runner, fork, expected[kv_dtype])
    save_sequence(tmp_path / "kept", sequence, "m", None)
    loaded, _ = load_sequence(tmp_path / "kept", runner.new_state(CONTEXT, kv_dtype), "m", 160)
    assert loaded is not None and not loaded.checkpoints
    goes_on(runner, loaded, expected[kv_dtype])
    for place in (513, 300, 274):
        sequence.go_back(place)
        assert max(sequence.checkpoints) == place
    goes_on(runner, sequence, expected[kv_dtype])


@pytest.mark.usefixtures("large_windows")
def test_a_place_that_rings_lose_is_copied_if_there_is_memory_to_spare(
    runner: Runner, expected: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequences, "COPY_TOKENS", 150)
    asked = list[int]()
    sequence = TokenSequence(runner.new_state(CONTEXT), lambda nbytes: asked.append(nbytes) or True)
    turns = (20, 100, 190, 250)
    while (first := len(sequence.ids)) < 590:
        part = IDS[first : min(590, first + 37)].tolist()
        run(runner, sequence.read(part, [t for t in turns if first < t <= first + len(part)], last=False))
    copied = {place for place, checkpoint in sequence.checkpoints.items() if checkpoint.window}
    conv_bytes = sum(array.nbytes for array in sequence.state.conv.values())
    assert copied == {190} and sequence.copied_bytes == asked[0] + conv_bytes
    assert {20, 100, 250}.isdisjoint(sequence.checkpoints) and len(asked) == 1  # 190 took the place of 20
    goes_on(runner, sequence.fork(190, runner.new_state(CONTEXT)), expected["float16"])
    sequence.go_back(190)
    goes_on(runner, sequence, expected["float16"])


@pytest.mark.usefixtures("large_windows")
def test_copies_go_before_sequences_do(runner: Runner) -> None:
    """Copies count as what is kept for reuse: none is made where that has no room, and they leave first."""
    pool = SequencePool(lambda: runner.new_state(CONTEXT), 1 << 40)

    def read(ids: list[int]) -> TokenSequence:
        sequence = pool.take(ids)
        for first in range(0, len(ids), 37):
            part = ids[first : first + 37]
            run(runner, sequence.read(part, [first + len(part)], last=False))
        return sequence

    sequence = read(IDS[:500].tolist())
    assert sequence.copied_bytes > 0
    pool.limit_bytes = sequence.nbytes - 1
    pool.give(sequence)
    assert not sequence.copied_bytes and pool.stats.sequences == 1 and pool.stats.evicted == 0
    assert pool.stats.nbytes == sequence.nbytes <= pool.limit_bytes
    pool.limit_bytes = pool.stats.nbytes
    other = read(IDS[100:600].tolist())
    assert not other.copied_bytes
    pool.give(other)
    assert pool.stats.sequences == pool.stats.evicted == 1


def test_long_contexts_of_large_windows() -> None:
    """Trinity Mini and gpt-oss-20b: what 32,768 tokens take, places to go back to included."""
    for name, most in (("trinity-mini", 0.7e9), ("gpt-oss-20b", 0.9e9)):
        shape = read_shape(family_config(name))
        sizes, state = CacheSizes(shape, 32768, "float16", 512), State(shape, 32768)
        state.reserve(32768)
        copied = (
            sizes.checkpoints * (shape.window - 1) * position_bytes(next(iter(shape.attentions.values())), "float16")
        )
        sliding = sum(attention.window is not None for attention in shape.attentions.values())
        assert sizes.nbytes == state.nbytes + (copied * sliding if sizes.has_copies else 0) < most
        # Without copies: of a prompt's last places each is in reach while an answer has 890 tokens.
        assert sizes.has_copies or state.ring - (shape.window - 1) >= 128 + 890


@pytest.mark.parametrize("kv_dtype", ["float16", "int8"])
def test_rejected_drafts_at_the_end_of_the_ring(kv_dtype: str, runner: Runner, expected: dict[str, np.ndarray]) -> None:
    """Each step has drafts of which some are wrong: their keys have taken the places of older ones."""
    rng = np.random.default_rng(1)
    for start in (RING - 40, 2 * RING - 30):
        sequence = reading(runner, kv_dtype, start)
        while (first := len(sequence.ids)) < start + 80:
            right, wrong = int(rng.integers(1, 20)), int(rng.integers(0, CHUNK - 20))
            drafts = [*IDS[first : first + right].tolist(), *rng.integers(0, 160, wrong).tolist()]
            before, rows = run(runner, sequence.draft(drafts))
            assert np.array_equal(rows[:right], expected[kv_dtype][first : first + right])
            sequence.undo(sequence.state.checkpoint_after(before, right))
        goes_on(runner, sequence, expected[kv_dtype])


def test_what_the_ring_has_lost_is_refused_by_name(runner: Runner, expected: dict[str, np.ndarray]) -> None:
    """A step back without a copy of its window is good for as long as the ring holds it, and not for other states."""
    sequence = reading(runner, "float16", 100)
    state = sequence.state
    early, kept = state.checkpoint(), state.with_window(state.checkpoint())
    for first in range(100, 400, 30):
        all_rows(runner, IDS[first : first + 30], state)
    for refused in (state.go_back, state.with_window):
        with pytest.raises(UsageError, match="position 100 cannot be gone back to: sliding layers keep nothing before"):
            refused(early)
    assert state.position == 400 and np.array_equal(all_rows(runner, IDS[400:401], state)[0], expected["float16"][400])
    state.go_back(kept)
    assert np.array_equal(all_rows(runner, IDS[100:140], state), expected["float16"][100:140])
    state.go_back(early)
    assert np.array_equal(all_rows(runner, IDS[100:140], state), expected["float16"][100:140])


@pytest.mark.parametrize("kv_dtype", ["float16", "int8"])
def test_sessions_of_earlier_versions(
    kv_dtype: str, runner: Runner, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """They have all keys and values of every layer, and no windows; as have those of short contexts, which in their
    turn have no use for windows."""
    turns, state = (40, 290, 450), State(runner.shape, TOKENS, kv_dtype)
    arrays = {"ids": IDS[:500].astype(np.int32)}
    for turn in (*turns, 500):
        while state.position < turn:
            all_rows(runner, IDS[state.position : min(turn, state.position + CHUNK)], state)
        name = "conv" if turn == 500 else f"checkpoint.{turn}"
        arrays[name] = np.stack(list(state.conv.values()))
    for (layer, field), cache in state.caches.items():
        arrays[f"{field}.{layer}"] = np.ascontiguousarray(cache[:, : 32 if field == "keys" else 512])
    header = {"model": "m", "layout": LAYOUT_VERSION, "kv": kv_dtype, "tokens": 500, "checkpoints": turns, "extra": 7}
    specs = [TensorSpec(name, "U8", (values.nbytes,)) for name, values in arrays.items()]
    with PackedWriter(tmp_path / "old", specs, {"edge_lfm_session": json.dumps(header)}) as writer:
        for n, values in enumerate(arrays.values()):
            writer.write(n, values)
    sequence, extra = load_sequence(tmp_path / "old", runner.new_state(CONTEXT, kv_dtype), "m", 160)
    assert sequence is not None and extra == 7
    for turn in turns:
        goes_on(runner, sequence.fork(turn, runner.new_state(CONTEXT, kv_dtype)), expected[kv_dtype])
    goes_on(runner, sequence, expected[kv_dtype])
    save_sequence(tmp_path / "new", sequence, "m", 8)
    assert load_sequence(tmp_path / "new", State(runner.shape, TOKENS, kv_dtype), "m", 160) == (None, 8)


def test_a_conversation_beyond_the_ring(tmp_path: Path) -> None:
    """Through the door: turns, undo, a fork and a saved session give the tokens of a model that remembers nothing."""
    folder = write_checkpoint(
        tmp_path / "in", GOLDEN_CASES["lfm3"] | {"vocab_size": 4096, "max_position_embeddings": 2048}
    )
    for name in TOKENIZER_FILES:
        if (demo_checkpoint() / name).exists():
            (folder / name).write_bytes((demo_checkpoint() / name).read_bytes())
    convert(folder, tmp_path / "out", find_recipe("int8"))
    options = {"threads": 1, "context": 2048, "parallel": 1}
    with Model.load(tmp_path / "out", **options) as model, Model.load(tmp_path / "out", cache=1, **options) as fresh:
        session = model.session(system="The hat is red. " * 60)
        for word in ("blue ", "green ", "large "):
            answer = session.send(word * 150, max_tokens=4)
        assert answer.timings.prompt_tokens > 1000  # the ring has 768
        session.save(tmp_path / "talk")
        fork, restored = session.fork(), model.restore(tmp_path / "talk")
        session.undo()
        session.undo()
        for each in (session, fork, restored):
            answer = each.send("Once more", max_tokens=8)
            assert answer.token_ids == fresh.generate(each.messages[:-1], max_tokens=8).token_ids
            assert answer.timings.cached_tokens > 300


def test_the_bytes_of_a_long_context() -> None:
    """LFM3-1.7B: 6 layers see all positions, 5 see 256 (4 heads of 128); a step has 512 tokens."""
    shape, context = read_shape(family_config("lfm3-1.7b")), 32768
    for kv_dtype, entry in (("float16", 256), ("int8", 132)):
        sizes, state = CacheSizes(shape, context, kv_dtype, 512), State(shape, context, kv_dtype)
        token, sliding = 6 * 8 * entry, 5 * 8 * entry
        assert (sizes.ring, sizes.token_bytes) == (768, token)
        assert sizes.nbytes == context * token + (768 + sizes.checkpoints * 255) * sliding
        state.reserve(context)
        conv = 13 * 6 * 2048 * 4
        assert nbytes_at(state, context) == state.nbytes == context * token + 768 * sliding + conv
        assert state.with_window(state.checkpoint()).nbytes == conv  # of position 0
        assert sizes.checkpoints * (255 * sliding + conv) <= 64 << 20
        short, state = CacheSizes(shape, 4096, kv_dtype, 512), State(shape, 4096, kv_dtype)
        state.reserve(4096)
        assert (short.ring, short.nbytes) == (state.ring, state.nbytes - conv) == (0, 4096 * (token + sliding))


def test_rings_never_take_more_than_all_keys() -> None:
    """However long the context, and whatever the window: a longer context takes more, and never more than all keys."""
    for name in (name for name, raw in PUBLISHED.items() if read_shape(raw).window):
        shape = read_shape(PUBLISHED[name])
        every = sum(position_bytes(a, "float16") for a in shape.attentions.values())
        sizes = [CacheSizes(shape, context, "float16", 512) for context in range(1024, 65537, 1024)]
        assert all(each.nbytes <= each.context * every for each in sizes)
        assert [each.nbytes for each in sizes] == sorted(each.nbytes for each in sizes)
        assert not sizes[0].ring and sizes[-1].ring
