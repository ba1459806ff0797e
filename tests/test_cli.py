"""The command as a user meets it: real processes, their output, exit codes, and one line per error."""

from __future__ import annotations

import itertools
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stepping import paging_ram

from edge_lfm.cli.complete import split
from edge_lfm.cli.parsing import VERBS, parse
from edge_lfm.demo import packed_demo
from edge_lfm.errors import UsageError
from edge_lfm.paths import cache_folder

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-P", "-m", "edge_lfm.cli.main"]


def edge_lfm(
    *args: object, stdin: bytes | None = b"", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *map(str, args)],
        input=stdin,
        capture_output=True,
        check=False,
        timeout=120,
        env=os.environ | (env or {}),
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def assert_one_line_error(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("edge-lfm: error: "), done.stderr
    for word in words:
        assert word in lines[0]


def test_run_streams_the_demo_model() -> None:
    done = edge_lfm("run", "What is the capital of France?")
    assert done.returncode == 0
    assert done.stdout == "The capital of France is Paris.\n"
    assert "tok/s" in done.stderr


def test_run_reads_standard_input(demo: dict[str, Path]) -> None:
    done = edge_lfm("run", demo["int8"], stdin=b"What is the capital of France?\n")
    assert done.stdout == "The capital of France is Paris.\n"


def test_run_json(demo: dict[str, Path]) -> None:
    done = edge_lfm("run", demo["int4"], "What is the capital of France?", "--json", "-n", 4, "--seed", 1)
    answer = json.loads(done.stdout)
    assert set(answer) == {"text", "token_ids", "usage", "timings", "finish_reason", "tool_calls", "paging"}
    assert len(answer["token_ids"]) == answer["usage"]["completion_tokens"] == 4
    assert answer["finish_reason"] == "length"
    assert answer["timings"]["prefill_tps"] > 0


def test_run_raw_and_sampling(demo: dict[str, Path]) -> None:
    arguments = (
        "run",
        demo["int4"],
        "Once upon a time",
        "--raw",
        "-n",
        12,
        "--temp",
        0.8,
        "--top-k",
        40,
        "--top-p",
        0.9,
        "--min-p",
        0.05,
        "--repeat-penalty",
        1.1,
        "--seed",
        5,
        "--threads",
        1,
    )
    first = edge_lfm(*arguments)
    assert first.returncode == 0 and first.stdout.strip()
    assert edge_lfm(*arguments).stdout == first.stdout


def test_quantize_then_run(tmp_path: Path) -> None:
    source = Path(sys.modules["edge_lfm"].__path__[0]) / "demo_model"
    plan = edge_lfm("quantize", source, "-o", tmp_path / "m", "--dry-run", "--json")
    assert json.loads(plan.stdout)["parameters"] == 8_290_784
    assert not (tmp_path / "m").exists()
    done = edge_lfm("quantize", source, "-o", tmp_path / "m", "--recipe", "int8")
    assert done.returncode == 0 and "bits per weight" in done.stdout
    assert (
        edge_lfm("run", tmp_path / "m", "What is the capital of France?").stdout == "The capital of France is Paris.\n"
    )
    assert_one_line_error(edge_lfm("quantize", source, "-o", tmp_path / "m"), 3, "exists", "--force")
    shown = json.loads(edge_lfm("inspect", tmp_path / "m", "--json").stdout)
    assert shown["provenance"]["source"] == "demo_model" and len(shown["provenance"]["source_hash"]) == 64
    assert edge_lfm("verify", tmp_path / "m").returncode == 0
    assert shown["size"]["active_parameters"] == 4_751_840
    raw = bytearray((tmp_path / "m/model.safetensors").read_bytes())
    raw[-100_000] ^= 1
    (tmp_path / "m/model.safetensors").write_bytes(raw)
    assert_one_line_error(edge_lfm("verify", tmp_path / "m"), 3, "damaged")
    damaged = edge_lfm("verify", tmp_path / "m", "--json")
    assert damaged.returncode == 3 and len(json.loads(damaged.stdout)["damaged"]) == 1


def test_inspect_for_people() -> None:
    text = edge_lfm("inspect").stdout
    for word in ("lfm2_moe", "16 experts", "8,290,784 parameters", "bits per weight", "read per token"):
        assert word in text


def test_synth_and_bench(tmp_path: Path) -> None:
    assert edge_lfm("synth", "lfm2-350m", "-o", tmp_path / "s", "--recipe", "int4").returncode == 0
    done = edge_lfm("bench", tmp_path / "s", "-p", "16", "-n", "4", "-d", "0,32", "-t", "1,2", "-r", "2", "--json")
    rows = json.loads(done.stdout)["results"]
    assert [(r["test"], r["depth"], r["threads"]) for r in rows] == [
        (test, depth, threads) for threads in (1, 2) for depth in (0, 32) for test in ("pp16", "tg4")
    ]
    assert all(0 < r["min"] <= r["tokens_per_second"] <= r["max"] for r in rows)
    decodes = [row for row in rows if row["test"] == "tg4"]
    position = 6 * 2 * 8 * 64 * 2  # layers, keys and values, heads of 64 float16
    assert [row["kv_bytes_per_token"] for row in decodes] == [position * (depth + 2) for depth in (0, 32)] * 2
    for row in decodes:
        read = row["bytes_per_token"] + row["kv_bytes_per_token"]
        assert row["share_of_limit"] == pytest.approx(row["tokens_per_second"] * read / row["read_gbps"] / 1e9)
    assert_one_line_error(edge_lfm("synth", "lfm9", "-o", tmp_path / "x"), 2, "lfm9", "lfm2-24b-a2b")
    assert_one_line_error(edge_lfm("bench", "-p", "many"), 2, "-p many")
    ram = paging_ram(packed_demo(), 17, threads=1)
    paged = edge_lfm("bench", "-p", "16", "-n", "4", "-t", "1", "-r", "2", "--ram", f"{ram},all", "--json")
    rows = json.loads(paged.stdout)["results"]
    assert [(r["ram"], r["bound"]) for r in rows] == [
        (ram, "storage"), (ram, "storage"), ("all", "compute"), ("all", "bandwidth")
    ]  # fmt: skip
    assert 0 <= rows[1]["hit_rate"] <= 1 and rows[0]["storage_gbps"] > 0
    assert ram in edge_lfm("bench", "-p", "16", "-n", "4", "-t", "1", "-r", "1", "--ram", ram).stdout


def test_piped_chat_remembers() -> None:
    done = edge_lfm("chat", "--echo", stdin=b"My name is Anna and I live in Paris.\n\nWhat is my name?\n")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-2:] == ["> What is my name?", "Your name is Anna."]
    assert "cached" in done.stderr


def test_a_budget_smaller_than_the_model_pages_and_says_so() -> None:
    small = ("--context", "256", "--ram", paging_ram(packed_demo(), 256))
    done = edge_lfm("run", "What is the capital of France?", *small, "--temp", "0")
    assert done.stdout == "The capital of France is Paris.\n"
    assert "experts in memory" in done.stderr and "MB read per token" in done.stderr
    done = edge_lfm("chat", "--echo", *small, stdin=b"My name is Anna.\nWhat is my name?\n")
    assert done.stdout.splitlines()[-1] == "Your name is Anna."
    assert done.stderr.count("experts in memory") == 2
    found = json.loads(edge_lfm("run", "Hello there", *small, "-n", "4", "--json").stdout)["paging"]
    assert found["bytes_read"] > 0 and len(found["hits"]) == 6


ERRORS = [
    (("run", "./absent", "hi"), 3, "absent does not exist"),
    (("run", "hi there", "--top-p", "7"), 2, "top_p"),
    (("run", "hi there", "--temp", "nan"), 2, "temperature"),
    (("run", "hi there", "-n", "0"), 2, "max_tokens"),
    (("run", "hi there", "--threads", "0"), 2, "threads"),
    (("run", "hi there", "--ram", "1M"), 4, "MiB"),
    (("run", "word " * 20000), 2, "context"),
    (("run", ""), 2, "empty"),
    (("run",), 2, "empty"),
    (("quantize", "absent", "-o", "out"), 3, "absent does not exist"),
    (("quantize", "absent", "-o", "out", "--recipe", "int3"), 2, "int3"),
    (("serve", "absent", "--port", "0"), 3, "absent does not exist"),
    (("inspect", "/"), 3, "config.json"),
    (("verify", "/"), 3, "config.json"),
    (("eval",), 2, "--text"),
    (("eval", "--text", "absent.txt"), 2, "absent.txt"),
    (("eval", "--tasks", "absent.jsonl"), 2, "absent.jsonl"),
    (("calibrate", "absent", "--text", "absent.txt", "-o", "out"), 2, "absent.txt"),
]


@pytest.mark.parametrize(("arguments", "code", "word"), ERRORS, ids=[" ".join(a)[:30] for a, _, _ in ERRORS])
def test_errors_are_one_line(
    arguments: tuple[str, ...], code: int, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_line_error(edge_lfm(*arguments), code, word)
    assert list(tmp_path.iterdir()) == []


def test_input_that_is_no_utf8() -> None:
    assert_one_line_error(edge_lfm("run", stdin=b"\xff\xfe"), 2, "UTF-8")


def test_usage_errors_exit_with_2() -> None:
    for arguments in (("walk",), ("run", "--walk"), ("quantize",)):
        done = edge_lfm(*arguments)
        assert done.returncode == 2 and "usage:" in done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_an_example_and_json(verb: str) -> None:
    done = edge_lfm(verb, "--help", env={"COLUMNS": "100"})
    assert done.returncode == 0
    assert "example: edge-lfm" in done.stdout
    assert "--json" in done.stdout or verb == "completion"  # which prints a script


def test_a_reader_that_goes_away_is_no_error() -> None:
    done = subprocess.run(
        f"{' '.join(COMMAND)} run 'Once upon a time' --raw -n 200 | head -c 5",
        shell=True,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert len(done.stdout) == 5
    assert b"Traceback" not in done.stderr


def test_ctrl_c_ends_a_run_at_once(demo: dict[str, Path]) -> None:
    process = subprocess.Popen(
        [
            *COMMAND,
            "run",
            str(demo["int4"]),
            "Once upon a time",
            "--raw",
            "-n",
            "100000",
            "--temp",
            "2",
            "--context",
            "2048",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    process.stdout.read(5)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode in (0, 130)  # 0: the text ended first
    assert time.monotonic() - started < 2
    assert "Traceback" not in err


class Terminal:
    """`edge-lfm chat` on a pseudo-terminal."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.parent, child = pty.openpty()
        self._unread = ""
        self.process = subprocess.Popen(
            [*COMMAND, "chat", *arguments], stdin=child, stdout=child, stderr=child, env=os.environ | environment
        )
        os.close(child)

    def read_until(self, *marks: str) -> str:
        """What comes up to the last mark, from the mark before it; what came after it is for the next call."""
        for mark in marks:
            while mark not in self._unread:
                assert select.select([self.parent], [], [], 60)[0], f"no {mark!r} after {self._unread!r}"
                self._unread += os.read(self.parent, 4096).decode("utf-8", "replace")
            end = self._unread.index(mark) + len(mark)
            read, self._unread = self._unread[:end], self._unread[end:]
        return read

    def say(self, line: str, *marks: str) -> str:
        """Type a line; what comes up to the marks and the next prompt (only the line editor takes Ctrl-D as the
        end)."""
        os.write(self.parent, line.encode() + b"\n")
        return self.read_until(*marks, "> ")

    def __enter__(self) -> Terminal:
        self.read_until("/help lists", "> ")
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            os.write(self.parent, b"\x04")
            assert self.process.wait(timeout=20) == 0
        self.process.kill()
        self.process.wait()
        os.close(self.parent)


@pytest.fixture
def home(tmp_path: Path) -> str:
    """A cache folder of its own, with the kernels that are compiled already."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/kernels").symlink_to(cache_folder() / "kernels")
    return str(tmp_path / "cache")


def test_chat_in_a_terminal(demo: dict[str, Path], tmp_path: Path, home: str) -> None:
    """Answers, every command, an unknown one, a stopped answer, and the end by Ctrl-D."""
    saved = tmp_path / "talk.session"
    with Terminal(str(demo["int4"]), "--system", "Be brief.", EDGE_LFM_CACHE=home) as chat:
        chat.say("My name is Anna and I live in Paris.", "tok/s]")
        os.write(chat.parent, b"What is my name?\n")
        assert "Anna" in chat.read_until("tok/s]")
        chat.read_until("> ")
        for line, answer in (
            ("/help", "/regenerate"),
            ("/?", "/regenerate"),
            ("/stats", "messages"),
            ("/set temperature 0.5", "temperature 0.5"),
            ("/set temperature 99999", "temperature"),
            ("/set tempratur 1", "temperature"),
            ("/set temperature null", "max_tokens"),
            (f"/save {saved}", "saved 5 messages"),
            ("/undo", "taken back: What is my name?"),
            ("/regenerate", "tok/s]"),
            ("/nonsense", "unknown command /nonsense"),
            ("/save", "needs a file"),
            ("/save .", "is a folder"),
            ("/load /absent/file", "does not exist"),
            (f"/load {saved}", "Anna"),
            ("/clear", "Be brief."),
            ("/system You are kind.", "You are kind."),
            ("/undo", "nothing to take back"),
        ):
            chat.say(line, answer)
        assert saved.exists()
    assert "/system You are kind." in (tmp_path / "cache/chat_histories/int4").read_text(encoding="utf-8")
    with Terminal(str(demo["int4"]), "--load", str(saved), EDGE_LFM_CACHE=home) as chat:
        text = chat.say("What is my name?", "cached tokens")
    assert saved.exists() and text


def test_ctrl_c_stops_the_answer_only(demo: dict[str, Path], home: str) -> None:
    options = ("--temp", "5", "--seed", "1", "-n", "100000")
    with Terminal(str(demo["int4"]), *options, EDGE_LFM_CACHE=home) as chat:
        os.write(chat.parent, b"Tell me a story.\n")
        chat.read_until("story.", "\n", " ")  # the answer has begun
        chat.process.send_signal(signal.SIGINT)
        chat.read_until("[stopped]", "> ")
        chat.say("/undo", "taken back: Tell me a story.")


def test_threads_beyond_the_processors_are_told(demo: dict[str, Path], tmp_path: Path) -> None:
    """By every verb that takes a number of threads for a model; `serve` has its own way to write it."""
    model, text = str(demo["int4"]), tmp_path / "text"
    text.write_text("A text of some length. " * 20, encoding="utf-8")
    one = ["taskset", "-c", str(min(os.sched_getaffinity(0))), *COMMAND]
    verbs = (
        ("run", model, "Hello", "-n", "2"),
        ("bench", model, "-p", "1", "-n", "1", "-r", "1"),
        ("eval", model, "--text", str(text), "--window", "8", "--windows", "1"),
    )
    for verb, (asked, warned) in itertools.product(verbs, (("2", True), ("1", False))):
        done = subprocess.run([*one, *verb, "--threads", asked], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and (f"warning: 1 of {asked} threads run" in done.stderr) == warned


def test_debug_shows_the_traceback() -> None:
    done = edge_lfm("--debug", "run", "./absent", "hi")
    assert "Traceback" in done.stderr and "ModelFileError" in done.stderr


@pytest.mark.parametrize("words", [["run", "M", "P", "Q"], ["run", "M", "--rem", "4", "P"], ["eval", "M", "--x", "P"]])
def test_words_too_many_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(words)
    assert "unrecognized arguments" in capsys.readouterr().err


CLOSED = {"out": ">&-", "err": "2>&-", "in": "<&-", "all": "<&- >&- 2>&-"}


@pytest.mark.parametrize("streams", CLOSED.values(), ids=CLOSED)
def test_closed_streams(streams: str) -> None:
    code = f"{sys.executable} -P -m edge_lfm.cli.main run 'What is the capital of France?' -n 2 {streams}"
    done = subprocess.run(["sh", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "Traceback" not in done.stderr


@pytest.mark.parametrize(("arguments", "code"), [("devices", 3), ("run Hi! -n 2", 3), ("run Hi! -n 2 --json", 3)])
def test_a_full_disk_behind_the_output(arguments: str, code: int) -> None:
    line = f"{sys.executable} -P -m edge_lfm.cli.main {arguments} > /dev/full"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=120)
    assert done.returncode == code and "No space left" in done.stderr and "Traceback" not in done.stderr
    quiet = subprocess.run(["sh", "-c", line.replace("> /dev/full", "2> /dev/full")], capture_output=True, timeout=120)
    assert quiet.returncode == 0 and quiet.stdout


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("other", ["\f", "\v", "\x1c", "\x85", "\u2028", "\u2029"])
def test_lines_are_counted_as_editors_do(other: str, end: str, tmp_path: Path) -> None:
    lines = ["first", f"se{other}cond", "third", "fourth"]
    path = tmp_path / "f.py"
    path.write_bytes(end.join(lines).encode() + end.encode())
    for number in range(1, 5):
        before, after = split(f"{path}:{number}")
        assert before == end.join(lines[:number])
        assert before + after == end.join(lines) + end
    assert split(f"{path}:0") == ("", end.join(lines) + end)
    assert split(str(path)) == (end.join(lines) + end, "")
    with pytest.raises(UsageError, match="has 4 lines, not 5"):
        split(f"{path}:5")


def test_complete_at_a_line(tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text('def add(a, b):\n    """Return the sum of a and b."""\n    return\n', encoding="utf-8")
    done = edge_lfm("complete", f"{file}:3", "--lines", "one")
    assert done.returncode == 0 and done.stdout.strip() == "a + b"
    found = json.loads(edge_lfm("complete", str(file), "--json", "-n", "4").stdout)
    assert set(found) == {"text", "finish_reason", "usage"}
    for place in (f"{file}:99", str(tmp_path / "absent:1"), str(tmp_path)):
        assert edge_lfm("complete", place).returncode == 2


def test_terminals_that_are_not_utf8(demo: dict[str, Path], tmp_path: Path) -> None:
    """What they cannot show is spelled out, and what they should not have sent is refused in one line."""
    shutil.copytree(demo["int4"], tmp_path / "modèle")
    shown = edge_lfm("inspect", tmp_path / "modèle", env={"PYTHONIOENCODING": "ascii"})
    assert shown.returncode == 0 and "mod\\xe8le: lfm2_moe" in shown.stdout
    (tmp_path / "schema.json").write_text("{}", encoding="utf-8")
    for verb in (("chat",), ("run",), ("extract", "--schema", tmp_path / "schema.json")):
        assert_one_line_error(edge_lfm(*verb, stdin=b"\xff\n", env={"PYTHONIOENCODING": "utf-8"}), 2)


def test_extract_line_by_line(tmp_path: Path) -> None:
    schema = tmp_path / "order.json"
    kinds = {"item": {"type": "string"}, "quantity": {"type": "integer"}, "customer": {"type": "string"}}
    content = {"type": "object", "properties": kinds, "required": list(kinds), "additionalProperties": False}
    schema.write_text(json.dumps(content), encoding="utf-8")
    lines = b"Order by Anna: 5 x cup.\n\nOrder by Bob: 12 x lamp.\n"
    for options in ((), ("--soft", "2")):
        done = edge_lfm("extract", "--schema", str(schema), *options, stdin=lines)
        assert done.returncode == 0, done.stderr
        found = [json.loads(line) for line in done.stdout.splitlines()]
        assert [f["item"] for f in found] == ["cup", "lamp"] and found[0]["quantity"] == 5
    cut = edge_lfm("extract", "--schema", str(schema), "-n", "3", stdin=lines)
    assert cut.returncode == 1 and "cut off" in cut.stderr and "Traceback" not in cut.stderr
    absent = edge_lfm("extract", "--schema", str(tmp_path / "absent"), stdin=lines)
    assert absent.returncode == 2 and "does not exist (give a file with a JSON schema)" in absent.stderr
    assert edge_lfm("extract", "--schema", str(schema), stdin=b"\xff\n").returncode == 2
    schema.write_text('{"type": "foo"}', encoding="utf-8")
    assert edge_lfm("extract", "--schema", str(schema), stdin=lines).returncode == 2


def test_ask_documents(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "notes.txt").write_text(f"The {folder} museum has 70 rooms.", encoding="utf-8")
    names = [str(tmp_path / folder / "notes.txt") for folder in ("a", "b")]
    asked = ("ask", "--doc", names[0], "--doc", names[1], "-n", "20")
    done = edge_lfm(*asked, "How many rooms are there?")
    assert done.returncode == 0 and done.stdout.strip()
    found = json.loads(edge_lfm(*asked, "--json", stdin=b"How many rooms?").stdout)
    assert set(found) == {"text", "citations", "trimmed_documents", "usage"}
    (tmp_path / "long.txt").write_text("word " * 4000, encoding="utf-8")
    long = ("ask", "--doc", str(tmp_path / "long.txt"), "-n", "4", "Well?")
    assert edge_lfm(*long).returncode == 2
    assert "cut to fit: long" in edge_lfm(*long, "--trim").stderr
    assert edge_lfm("ask", "--doc", str(tmp_path / "absent"), "x").returncode == 2


def test_an_interrupt_while_a_verb_is_imported_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_name: str) -> None:
        raise KeyboardInterrupt

    from edge_lfm.cli.main import main

    monkeypatch.setattr("edge_lfm.cli.parsing.import_module", interrupted)
    assert main(["run", "hi"]) == 130
    assert capsys.readouterr().err == "\nedge-lfm: interrupted\n"
