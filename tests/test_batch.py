"""`edge-lfm batch`: each line is answered once, whatever happens between; what is wrong with one is told in place."""

from __future__ import annotations

import json
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_lfm import Model
from edge_lfm.errors import OutputError, UsageError
from edge_lfm.server.batch_lines import Requests
from edge_lfm.server.batch_output import BatchOutput

pytestmark = pytest.mark.slow
COMMAND = (sys.executable, "-P", "-m", "edge_lfm.cli.main", "batch")


def chat(number: int, **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"What comes after {number}?"}]
    whole = {"messages": messages, "max_tokens": 10, "temperature": 1.0, "seed": number} | body
    return {"custom_id": f"ask-{number}", "method": "POST", "url": "/v1/chat/completions", "body": whole}


def write(path: Path, lines: list[Any]) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def run(requests: Path, output: Path, *more: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, str(requests), "-o", str(output), "--threads", "1", "--json", *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, **options)


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_interface_is_answered_and_what_is_wrong_is_told_by_its_line(tmp_path: Path) -> None:
    lines = [
        chat(1),
        {"custom_id": "text", "method": "POST", "url": "/v1/completions", "body": {"prompt": "The cat", "n": 3}},
        "nonsense",
        {"custom_id": "response", "url": "/v1/responses", "body": {"input": "Hello", "max_output_tokens": 16}},
        chat(2) | {"url": "/v1/embeddings"},
        chat(1),
        "",
        chat(3, model=["gpt-4"]),
        chat(4, stream=True),
        chat(5, temperature=-1),
        {"url": "/v1/completions", "body": {}},
        chat(6),
        chat(7, model="gpt-4"),
    ]
    done = run(write(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl")
    assert done.returncode == 1 and "8 requests failed" in done.stderr and "Traceback" not in done.stderr
    found = {record["line"]: record for record in records(tmp_path / "out.jsonl")}
    assert json.loads(done.stdout) | {"tokens": 0, "tokens_per_s": 0} == {
        "requests": 12, "before": 0, "answered": 4, "failed": 8, "tokens": 0, "tokens_per_s": 0}  # fmt: skip
    assert {n for n, r in found.items() if r["response"] and r["response"]["status_code"] == 200} == {1, 2, 4, 12}
    assert {n for n, r in found.items() if r["response"] is None} == {3, 5, 6, 9, 11}
    assert found[8]["response"]["status_code"] == 400 and found[10]["response"]["status_code"] == 400
    assert found[13]["response"]["body"]["error"]["code"] == "model_not_found"
    assert all(f"line {n}:" in r["error"]["message"] for n, r in found.items() if r["response"] is None)
    assert "stands in line 1 too" in found[6]["error"]["message"]
    assert len(found[2]["response"]["body"]["choices"]) == 3
    assert found[4]["response"]["body"]["object"] == "response"
    again = run(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert again.returncode == 0 and json.loads(again.stdout)["before"] == 12
    assert len(records(tmp_path / "out.jsonl")) == 12


def test_answers_are_those_of_each_alone(tmp_path: Path) -> None:
    count = 24
    done = run(write(tmp_path / "in.jsonl", [chat(n) for n in range(count)]), tmp_path / "out.jsonl")
    assert done.returncode == 0, done.stderr
    bodies = {r["custom_id"]: r["response"]["body"] for r in records(tmp_path / "out.jsonl")}
    rows = [body["timings"]["rows_per_step"] for body in bodies.values()]
    assert max(rows) > 2
    with Model.load(threads=1, parallel=1) as model:
        for n in range(count):
            alone = model.generate(f"What comes after {n}?", max_tokens=10, temperature=1.0, seed=n)
            assert bodies[f"ask-{n}"]["choices"][0]["message"]["content"] == alone.text


def test_what_scores_texts_is_scored_together_and_as_alone(tmp_path: Path) -> None:
    """As lm-evaluation-harness asks for continuations: texts behind the same context, told back with their scores."""
    context, texts = "The cat sat on the mat. The dog", [" sat", " barked at the cat", " is a dog", " reads.", " the"]
    bodies = [{"prompt": context + text, "echo": True, "logprobs": 1, "max_tokens": 1} for text in texts]
    bodies.append(bodies[0] | {"prompt": [context + text for text in texts]})
    lines = [{"custom_id": str(n), "url": "/v1/completions", "body": body} for n, body in enumerate(bodies)]

    def scores(*options: str) -> dict[str, list[Any]]:
        output = tmp_path / f"out{len(options)}.jsonl"
        assert run(write(tmp_path / "in.jsonl", lines), output, *options).returncode == 0
        bodies = {r["custom_id"]: r["response"]["body"] for r in records(output)}
        return {key: [choice["logprobs"] for choice in body["choices"]] for key, body in bodies.items()}

    together, alone = scores("--parallel", "8", "--cache", "1M"), scores("--parallel", "1")
    assert together == alone
    assert together["5"] == [together[str(n)][0] for n in range(5)]


def test_a_run_that_is_killed_goes_on_with_nothing_lost_and_nothing_done_twice(tmp_path: Path) -> None:
    count, rng, kills = 60, random.Random(1), 0
    requests, output = write(tmp_path / "in.jsonl", [chat(n) for n in range(count)]), tmp_path / "out.jsonl"
    command = [*COMMAND, str(requests), "-o", str(output), "--threads", "1"]
    for _ in range(40):
        before = output.stat().st_size if output.exists() else 0
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and (output.stat().st_size if output.exists() else 0) <= before:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.1))
            if process.poll() is None:
                process.send_signal(rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
                kills += 1
        if process.returncode == 0:
            break
        if rng.random() < 0.5:
            with output.open("ab") as file:  # as a machine that lost its power leaves it
                file.write(b'{"id":"batch_req_00"'[: rng.randrange(1, 20)])
    assert kills >= 3
    assert run(requests, output).returncode == 0
    assert Counter(r["custom_id"] for r in records(output)) == {f"ask-{n}": 1 for n in range(count)}
    assert all(r["response"]["status_code"] == 200 for r in records(output))


SIGTERM_AT_A_THREADS_START = """
import asyncio, os, signal, threading
from anyio import to_thread
from edge_lfm.cli.batch import _run_until_signal
from edge_lfm.cli.main import _terminate

start = threading.Thread.start

def start_and_terminate(thread):
    start(thread)
    threading.Thread.start = start
    os.kill(os.getpid(), signal.SIGTERM)

async def answering():
    threading.Thread.start = start_and_terminate
    try:
        await asyncio.create_task(to_thread.run_sync(int))
    finally:
        print("cleaned up")

signal.signal(signal.SIGTERM, _terminate)
_run_until_signal(answering())
"""


def test_sigterm_leaves_no_thread_to_wait_for() -> None:
    """A process that was told to end while its loop started a thread waited for that thread for ever."""
    command = [sys.executable, "-c", SIGTERM_AT_A_THREADS_START]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (143, "cleaned up\n", "")


def test_a_full_disk_stops_cleanly_and_resumes(tmp_path: Path) -> None:
    requests, output = write(tmp_path / "in.jsonl", [chat(n) for n in range(12)]), tmp_path / "out.jsonl"
    small: Callable[[], None] = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))  # noqa: E731
    stopped = run(requests, output, preexec_fn=small)
    assert stopped.returncode == 3 and "run it again to go on" in stopped.stderr and "Traceback" not in stopped.stderr
    assert 0 < len(records(output)) < 12
    assert run(requests, output).returncode == 0
    assert len({r["custom_id"] for r in records(output)}) == len(records(output)) == 12


def test_what_is_not_an_output_of_this_batch_is_left_alone(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    for text in ("my notes", "my notes\n", '{"id": "x"}\n', "[]\n"):
        notes.write_text(text, encoding="utf-8")
        with pytest.raises(UsageError, match=r"line 1 of .* is no answer of a batch"):
            BatchOutput(notes)
        assert notes.read_text(encoding="utf-8") == text
    requests = Requests(write(tmp_path / "in.jsonl", [chat(1)]), "demo")
    with BatchOutput(tmp_path / "out.jsonl") as output:
        (line,) = requests.left(output)
        assert line.custom_id == "ask-1"
        with pytest.raises(UsageError, match="another process writes"):
            BatchOutput(tmp_path / "out.jsonl")
        output.write(line.head | {"response": {}, "error": None})
        assert requests.left(output) == []
    with pytest.raises(OutputError):
        BatchOutput(tmp_path / "nowhere" / "out.jsonl")
    with pytest.raises(UsageError, match="name a file of requests"):
        Requests(tmp_path / "none.jsonl", "demo")


@pytest.mark.parametrize("change", ["body", "custom_id", "model"])
def test_an_output_of_another_batch_is_told_by_its_line(change: str, tmp_path: Path) -> None:
    """Even where the custom_ids are the same, as those that scripts count."""
    lines, output = [chat(n) for n in range(3)], tmp_path / "out.jsonl"
    with BatchOutput(output) as file:
        for line in Requests(write(tmp_path / "in.jsonl", lines), "demo").lines:
            file.write(line.head | {"response": {}, "error": None})
    before = output.read_bytes()
    if change == "body":
        lines[1]["body"]["max_tokens"] += 1
    if change == "custom_id":
        lines[1]["custom_id"] = "other"
    requests = Requests(write(tmp_path / "other.jsonl", lines), "other" if change == "model" else "demo")
    place = "line 1" if change == "model" else "line 2"
    with BatchOutput(output) as file, pytest.raises(UsageError, match=f"{place} of .*out.jsonl answers no line of"):
        requests.left(file)
    assert output.read_bytes() == before


def test_a_line_that_was_mended_is_answered_beside_the_old_refusal(tmp_path: Path) -> None:
    lines, output = [chat(0), "nonsense", chat(2)], tmp_path / "out.jsonl"
    with BatchOutput(output) as file:
        for line in Requests(write(tmp_path / "in.jsonl", lines), "demo").lines:
            file.write(line.refusal() if line.problem else line.head | {"response": {}, "error": None})
    with BatchOutput(output) as file:
        assert Requests(write(tmp_path / "in.jsonl", lines), "demo").left(file) == []
        mended = Requests(write(tmp_path / "in.jsonl", [lines[0], chat(1), lines[2]]), "demo")
        assert [line.custom_id for line in mended.left(file)] == ["ask-1"]


def test_a_file_that_changes_while_it_is_read_is_told(tmp_path: Path) -> None:
    requests = Requests(write(tmp_path / "in.jsonl", [chat(1), chat(2)]), "demo")
    assert [json.loads(text)["custom_id"] for text in requests.texts(requests.lines)] == ["ask-1", "ask-2"]
    write(tmp_path / "in.jsonl", [chat(1), chat(3)])
    with pytest.raises(UsageError, match="has changed while it was read"):
        list(requests.texts(requests.lines))


def test_devices_are_no_files_of_a_batch() -> None:
    """One that gives bytes without end, and no line, took all memory."""
    with pytest.raises(UsageError, match="is no file"):
        BatchOutput(Path("/dev/full"))
    with pytest.raises(UsageError, match="is no file"):
        Requests(Path("/dev/zero"), "demo")
