"""Conversations: what is computed once stays computed, and changes no token, whatever is done to the conversation."""

from __future__ import annotations

import gc
import random
import threading
from pathlib import Path

import pytest
from stepping import paging_ram

from edge_lfm import EdgeLfmError, Model, Session
from edge_lfm.api.fitting import drop_oldest
from edge_lfm.api.options import Messages
from edge_lfm.errors import ContextOverflowError, OutputError, SessionFileError, UsageError

CAPITAL = "What is the capital of France?"
TALK = ("My name is Anna and I live in Paris.", "What is 2 + 2?", "What is my name?")


@pytest.fixture(scope="module")
def fresh(demo: dict[str, Path]):
    """The same model without any memory of earlier prompts: what everything must equal."""
    with Model.load(demo["int4"], threads=1, cache=1) as loaded:
        yield loaded
        assert loaded.reuse.tokens_reused == 0


def new_tokens(answer) -> int:
    return answer.timings.prompt_tokens - answer.timings.cached_tokens


def test_a_turn_computes_only_what_is_new(model: Model, fresh: Model) -> None:
    session = model.session()
    for n, question in enumerate(TALK):
        answer = session.send(question)
        plain = fresh.generate(session.messages[:-1])
        assert answer.token_ids == plain.token_ids and answer.text == plain.text
        if n:
            # The end-of-turn token of the answer before, its line break, the question, and the opening of the answer.
            turn = len(model.encode_prompt(question)) - 1
            assert new_tokens(answer) == turn + 2
    assert "Anna" in answer.text
    assert [m["role"] for m in session.messages] == ["user", "assistant"] * 3


def test_undo_regenerate_and_edit_cost_a_turn_at_most(model: Model, fresh: Model) -> None:
    session = model.session(system="Be brief.")
    for question in TALK:
        session.send(question)
    again = session.regenerate().result()
    assert new_tokens(again) <= 3  # the opening of the answer
    assert again.token_ids == fresh.generate(session.messages[:-1]).token_ids
    taken = session.undo()
    assert [m["role"] for m in taken] == ["user", "assistant"] and len(session.messages) == 5
    other = session.send("Where do I live?")
    assert new_tokens(other) <= len(model.encode_prompt("Where do I live?")) + 2
    assert other.token_ids == fresh.generate(session.messages[:-1]).token_ids
    session.messages[3]["content"] = "What is 3 + 3?"  # an edit in the middle
    edited = session.send("What is my name?")
    assert edited.timings.cached_tokens >= len(model.encode_prompt(session.messages[:3])) - 3
    assert edited.token_ids == fresh.generate(session.messages[:-1]).token_ids


def test_another_seed_regenerates_another_answer(model: Model) -> None:
    session = model.session()
    session.send("Once upon a time", temperature=1.5, seed=1, max_tokens=20)
    first = session.messages[-1]["content"]
    assert session.regenerate(temperature=1.5, seed=2, max_tokens=20).result().text != first
    assert session.regenerate(temperature=1.5, seed=1, max_tokens=20).result().text == first
    assert len(session.messages) == 2


def test_forks_go_separate_ways(model: Model, fresh: Model) -> None:
    session = model.session()
    session.send(TALK[0])
    other = session.fork()
    left, right = session.send("What is my name?"), other.send("Where do I live?")
    assert new_tokens(left) < 25 and new_tokens(right) < 25
    assert left.token_ids == fresh.generate(session.messages[:-1]).token_ids
    assert right.token_ids == fresh.generate(other.messages[:-1]).token_ids
    session.messages.clear()
    assert len(other.messages) == 4


@pytest.mark.parametrize("options", [{}, {"kv_dtype": "int8"}, {"ram": "paged", "context": 1024}])
def test_any_walk_equals_full_prefills(demo: dict[str, Path], options: dict, tmp_path: Path) -> None:
    """Random operations on several conversations, with little room, against a model that remembers nothing."""
    rng = random.Random(str(options))
    folder = demo["balanced"]
    if "ram" in options:
        options = options | {"ram": paging_ram(folder, options["context"], threads=1, cache_bytes=600 << 10)}
    with (
        Model.load(folder, threads=1, cache="600K", **options) as model,
        Model.load(folder, threads=1, cache=1, **({k: v for k, v in options.items() if k == "kv_dtype"})) as fresh,
    ):
        assert (model.paging is not None) == ("ram" in options)
        sessions = [model.session(system="You are a helpful assistant.") for _ in range(3)]
        for _ in range(40):
            n = rng.randrange(len(sessions))
            session = sessions[n]
            match rng.choice(["send", "send", "send", "regenerate", "undo", "fork", "save", "edit", "stop"]):
                case "undo" if len(session.messages) > 1:
                    session.undo()
                    continue
                case "fork":
                    sessions[rng.randrange(len(sessions))] = session.fork()
                    continue
                case "save":
                    session.save(tmp_path / "s")
                    sessions[n] = model.restore(tmp_path / "s")
                    assert sessions[n].messages == session.messages
                    continue
                case "edit" if len(session.messages) > 2:
                    session.messages[1]["content"] = rng.choice(TALK)
                    continue
                case "stop":
                    generation = session.stream("Tell me a story.", temperature=1.0, seed=1, max_tokens=30)
                    for _ in range(rng.randrange(1, 9)):
                        next(generation, None)
                    generation.close()
                    continue
                case "regenerate" if len(session.messages) > 2:
                    answer = session.regenerate(max_tokens=24, lookup=rng.choice([0, 8])).result()
                case _:
                    question = rng.choice([*TALK, CAPITAL, "Is the hat red or blue?"])
                    answer = session.send(question, max_tokens=24, lookup=rng.choice([0, 8]))
            assert answer.token_ids == fresh.generate(session.messages[:-1], max_tokens=24).token_ids
        assert model.reuse.tokens_reused > 500 and model.reuse.evicted  # how many depends on when answers are stopped
        assert model.reuse.nbytes <= 600 << 10


def test_a_conversation_survives_a_restart_without_prefill(demo: dict[str, Path], fresh: Model, tmp_path: Path) -> None:
    path = tmp_path / "talk.session"
    with Model.load(demo["int4"], threads=1) as first:
        session = first.session(system="Be brief.")
        session.send(TALK[0])
        session.send(TALK[1])
        session.save(path)
    with Model.load(demo["int4"], threads=1) as second:
        restored = second.restore(path)
        assert restored.messages == session.messages
        answer = restored.send(TALK[2])
        assert new_tokens(answer) == len(second.encode_prompt(TALK[2])) + 1
        assert answer.token_ids == fresh.generate(restored.messages[:-1]).token_ids
        restored.undo()
        restored.undo()  # the checkpoints of its turns were saved too
        answer = restored.send("Where do I live?")
        assert new_tokens(answer) < 25
        assert answer.token_ids == fresh.generate(restored.messages[:-1]).token_ids
    assert [p.name for p in tmp_path.iterdir()] == ["talk.session"]


def test_damaged_and_foreign_session_files(demo: dict[str, Path], model: Model, tmp_path: Path) -> None:
    path, bad = tmp_path / "good", tmp_path / "bad"
    session = model.session()
    session.send(CAPITAL)
    session.save(path)
    good = path.read_bytes()
    header = int.from_bytes(good[:8], "little")
    rng = random.Random(0)
    places = [rng.randrange(8 + header, len(good)) for _ in range(60)] + [rng.randrange(8 + header) for _ in range(60)]
    for at in places:
        data = bytearray(good)
        data[at] ^= 1 << rng.randrange(8)
        bad.write_bytes(data)
        try:
            restored = model.restore(bad)
        except SessionFileError:
            continue
        assert at < 8 + header  # a letter of a message, or padding between the tensors
        assert isinstance(restored.messages, list)
    for length in (0, 7, 8, 100, 8 + header, len(good) - 1):
        bad.write_bytes(good[:length])
        with pytest.raises(SessionFileError):
            model.restore(bad)
    with pytest.raises(SessionFileError, match="does not exist"):
        model.restore(tmp_path / "absent")
    with pytest.raises(SessionFileError):
        model.restore(demo["int4"] / "model.safetensors")
    with Model.load(demo["int8"], threads=1) as other, pytest.raises(SessionFileError, match="another model"):
        other.restore(path)
    with Model.load(demo["int4"], threads=1, context=16) as small, pytest.raises(ContextOverflowError):
        small.restore(path)
    with Model.load(demo["int4"], threads=1, kv_dtype="int8") as other:  # the messages are good, the cache is of no use
        assert other.restore(path).regenerate().result().timings.cached_tokens == 0
    with pytest.raises(OutputError):
        session.save(tmp_path / "no" / "folder")
    assert model.restore(path).messages == session.messages


def test_prefixes_are_shared_between_requests(demo: dict[str, Path], fresh: Model) -> None:
    system = "You are a helpful assistant. " * 40
    with Model.load(demo["int4"], threads=1) as model:
        first = model.generate(CAPITAL, system=system)
        second = model.generate("What is 2 + 2?", system=system)
        assert first.timings.cached_tokens == 0
        prefix = len(model.encode_prompt("", system=system)) - len(model.encode_prompt("")) + 1
        both = [model.encode_prompt(question, system=system) for question in (CAPITAL, "What is 2 + 2?")]
        shared = next(n for n, (a, b) in enumerate(zip(*both, strict=False)) if a != b)
        assert second.timings.cached_tokens == second.usage["cached_tokens"]
        assert prefix <= second.timings.cached_tokens <= shared
        assert second.token_ids == fresh.generate("What is 2 + 2?", system=system).token_ids
        third = model.generate(CAPITAL, system=system)
        assert new_tokens(third) == 1 and third.token_ids == first.token_ids
        text = "The cat sat on the mat. " * 60
        long = model.generate(text, raw=True, max_tokens=4)
        other = model.generate(text + "Then", raw=True, max_tokens=4)
        assert new_tokens(long) > 400 and new_tokens(other) < 10
        assert other.token_ids == fresh.generate(text + "Then", raw=True, max_tokens=4).token_ids


def test_what_is_kept_is_bounded(demo: dict[str, Path]) -> None:
    with Model.load(demo["int4"], threads=1, cache="300K") as model:
        for n in range(30):
            model.generate(f"{n}: " + CAPITAL, max_tokens=2)
            assert model.reuse.nbytes <= 300 << 10
        assert model.reuse.evicted > 10 and model.reuse.sequences >= 1


def test_a_held_conversation_outlives_passing_requests(demo: dict[str, Path]) -> None:
    with Model.load(demo["int4"], threads=1, cache="300K") as model:
        session = model.session()
        session.send(TALK[0])
        for n in range(20):
            model.generate(f"{n}: " + CAPITAL, max_tokens=2)
        assert session.send(TALK[2]).timings.cached_tokens > 20
        del session
        gc.collect()
        for n in range(20):
            model.generate(f"{n}; " + CAPITAL, max_tokens=2)
        assert model.generate(TALK[0], max_tokens=2).timings.cached_tokens < 5


def test_a_stopped_answer_is_what_was_said(model: Model, fresh: Model) -> None:
    session = model.session()
    generation = session.stream(CAPITAL)
    said = "".join(text for _, text in zip(range(3), generation.texts(), strict=False))
    generation.close()
    assert session.messages[-1] == {"role": "assistant", "content": said}
    answer = session.send("What is 2 + 2?")
    assert answer.token_ids == fresh.generate(session.messages[:-1]).token_ids
    session.stream(CAPITAL).close()  # before its first word: no trace
    assert session.messages[-1]["content"] == answer.text


def test_a_session_answers_one_at_a_time(model: Model, tmp_path: Path) -> None:
    session = model.session()
    first = session.stream(CAPITAL)
    for attempt in (lambda: session.send("x"), lambda: session.regenerate(), lambda: session.save(tmp_path / "s")):
        with pytest.raises(UsageError, match="still answering"):
            attempt()
    with pytest.raises(UsageError, match="still answering"):
        session.undo()
    assert first.result().text == "The capital of France is Paris."
    abandoned = session.stream(CAPITAL)
    del abandoned
    gc.collect()
    assert session.send(CAPITAL).text == "The capital of France is Paris."


def test_documents_and_examples_of_a_turn(model: Model) -> None:
    session = model.session(system="Be brief.")
    session.send(TALK[0])
    told = {"documents": ["It has 70 rooms."], "examples": [("a", "b")], "max_tokens": 4}
    answer = session.send("How many rooms?", **told)
    assert answer.token_ids == model.generate(session.messages[:-1], **told).token_ids
    assert len(session.messages) == 5  # the examples are no part of the conversation


def test_as_few_turns_as_needed_are_left_out_and_at_most_twice_those_kept_are_read() -> None:
    rng = random.Random(1)
    for _ in range(200):
        sizes = [rng.randrange(1, 9) for _ in range(rng.randrange(1, 60))]
        messages = [{"role": "user", "content": "x" * size} for size in sizes]
        room, read = rng.randrange(9, 60), list[int]()

        def encode(turns: Messages, read: list[int] = read) -> list[int]:
            read.append(len(turns))
            return [0] * sum(len(turn["content"]) for turn in turns)

        kept, ids, dropped = drop_oldest(messages, encode, room)
        fewest = next(n for n in range(len(sizes)) if sum(sizes[n:]) <= room)
        assert (dropped, kept, len(ids)) == (fewest, messages[fewest:], sum(sizes[fewest:]))
        assert max(read) <= 2 * len(kept)


def test_a_full_context_keeps_documents_and_examples(demo: dict[str, Path]) -> None:
    with Model.load(demo["int4"], threads=1, context=200) as small:
        talk = [{"role": r, "content": f"{n} " * 8} for n in range(8) for r in ("user", "assistant")]
        options = {"documents": ["It has 70 rooms."], "examples": [("input", "output")], "max_tokens": 4}
        asked = [*talk, {"role": "user", "content": "Well?"}]
        answer = small.generate(asked, overflow="drop_oldest", **options)
        assert 0 < answer.dropped_messages < len(talk) and answer.timings.prompt_tokens <= 150
        kept = small.prepare(asked[answer.dropped_messages :], **options)
        assert len(kept.token_ids) == answer.timings.prompt_tokens


def test_nothing_to_undo_or_regenerate(model: Model) -> None:
    session = model.session(system="Be brief.")
    for attempt in (session.undo, session.regenerate):
        with pytest.raises(UsageError):
            attempt()
    with pytest.raises(EdgeLfmError):
        session.send({"role": 7, "content": "x"})
    assert len(session.messages) == 1


def test_a_full_context_is_refused_or_cleared_and_never_silent(demo: dict[str, Path]) -> None:
    with Model.load(demo["int4"], threads=1, context=150) as model:
        strict = model.session(system="Be brief.")
        with pytest.raises(ContextOverflowError):
            for n in range(20):
                strict.send(f"My number is {n}.", max_tokens=10)
        kept = len(strict.messages)
        assert kept % 2 == 1  # the message that did not fit is not part of the conversation
        assert model.generate(strict.messages[-3:-1], max_tokens=5).dropped_messages == 0
        rolling = model.session(system="Be brief.", overflow="drop_oldest")
        dropped = []
        for n in range(30):
            answer = rolling.send(f"My number is {n}.", max_tokens=10)
            dropped.append(answer.dropped_messages)
            told = [rolling.messages[0], *rolling.messages[1 + answer.dropped_messages : -1]]
            assert answer.timings.prompt_tokens == len(model.encode_prompt(told)) < 150
        assert dropped == sorted(dropped) and dropped[-1] > 20 and dropped[0] == 0
        assert len(set(dropped)) < 15  # not at every turn: a quarter is cleared at a time
        assert len(rolling.messages) == 61
        answer = model.generate(rolling.messages[:-1], overflow="drop_oldest", max_tokens=10)
        assert answer.dropped_messages > 20
        with pytest.raises(ContextOverflowError, match="last turn alone"):
            rolling.send("word " * 200)
        with pytest.raises(UsageError, match="overflow"):
            model.session(overflow="forget")


def test_sessions_in_threads_do_not_mix(model: Model, fresh: Model) -> None:
    found: dict[int, Session] = {}

    def talk(n: int) -> None:
        session = found[n] = model.session(system=f"You are assistant number {n}.")
        for question in TALK:
            session.send(question, max_tokens=16)

    threads = [threading.Thread(target=talk, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for session in found.values():
        for end in (2, 4, 6):
            told = session.messages[:end]
            assert session.messages[end]["content"] == fresh.generate(told, max_tokens=16).text
