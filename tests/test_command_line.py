"""What the command `edge-lfm` makes of its words: verbs, options, models, prompts, and what is none of them."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import edge_lfm
from edge_lfm.api import Model, Session
from edge_lfm.cli.chat import _Chat
from edge_lfm.cli.line_editing import completions
from edge_lfm.cli.local_models import settle_model
from edge_lfm.cli.parsing import VERBS, parse, verb_module, verb_parser
from edge_lfm.cli.run import read_prompt, split_positionals
from edge_lfm.errors import MissingExtraError, UsageError, install_line


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        parse(words)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_misspelt_words_are_told_with_what_may_be_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no verb 'quantise'; did you mean quantize?" in refused(["quantise", "x"], capsys)
    said = refused(["run", "M", "P", "--temprature", "1"], capsys)
    assert "usage: edge-lfm run" in said
    said = refused(["serve", "--aliass", "x"], capsys)
    assert "did you mean --alias?" in said and "usage: edge-lfm serve" in said


def test_no_words_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse([])
    told = capsys.readouterr().out
    assert ended.value.code == 0 and all(verb in told for verb in VERBS)


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_imports_nothing_large(verb: str) -> None:
    """Time is noise; what is imported is not: each of these takes longer than all of the help page."""
    code = "import sys; from edge_lfm.cli.main import main\ntry: main(sys.argv[1:])\n"
    code += "except SystemExit: print(*sys.modules)"
    command = [sys.executable, "-P", "-c", code, *([verb] if verb else []), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "usage: edge-lfm" in done.stdout
    imported = set(done.stdout.splitlines()[-1].split())
    floors = ("api", "engine", "model", "memory", "text", "kernels", "server", "demo")
    large = {"numpy", "numba", "tqdm", "asyncio", "tokenizers", "jinja2", *(f"edge_lfm.{floor}" for floor in floors)}
    assert imported & large == set()


@pytest.mark.parametrize(
    "verb", ["run", "chat", "serve", "ask", "complete", "extract", "batch", "bench", "eval", "verify"]
)
def test_the_model_by_its_option(verb: str) -> None:
    words = {"ask": ["--doc", "d"], "complete": ["f:1"], "extract": ["--schema", "s"], "batch": ["r", "-o", "a"]}
    others = [*words.get(verb, []), *(["--text", "t"] if verb == "eval" else [])]
    for option in ("-m", "--model"):
        args = parse([verb, *others, option, "M"])
        assert str(args.model) == "M" and "named_model" not in vars(args)


def test_words_beside_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["-m", "M", "P Q"], ["P Q", "-m", "M"], ["-m", "M", "--ram", "4G", "P Q"]):
        args = parse(["run", *words])
        assert (args.model, args.prompt) == ("M", "P Q")
    assert "given twice" in refused(["chat", "M", "-m", "N"], capsys)
    assert "given twice" in refused(["run", "M", "P", "-m", "N"], capsys)


def test_a_lone_word_that_may_be_a_model_is_one(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    assert split_positionals(str(tmp_path / "here"), None) == (str(tmp_path / "here"), None)
    assert split_positionals("LiquidAI/LFM2-8B-A1B", None) == ("LiquidAI/LFM2-8B-A1B", None)  # the hub has those
    for name in ("lfm2-24b", "./absent", "deep/er/x.gguf", "Hello"):
        with pytest.raises(UsageError, match=f"no model {name}"):
            split_positionals(name, None)
    for prompt in ("What is it?", "Hello!", "Paris, please", "你好", ""):
        assert split_positionals(prompt, None) == (None, prompt)
    assert split_positionals("absent", "Hi") == ("absent", "Hi")


def test_piped_text_stands_before_the_prompt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("A long text.\n", encoding="utf-8")
    with text.open(encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert read_prompt("Sum it up.") == "A long text.\n\nSum it up."
    reading, writing = os.pipe()
    os.write(writing, b"Piped.")
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        assert read_prompt("Well?") == "Piped.\n\nWell?"
    with open(os.devnull, encoding="utf-8") as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert read_prompt("Well?") == "Well?"
        with pytest.raises(UsageError, match="empty"):
            read_prompt(None)
    monkeypatch.setattr(sys, "stdin", io.StringIO("never read"))
    assert read_prompt("Well?") == "Well?"


def test_extras_are_installed_from_where_the_package_came(monkeypatch: pytest.MonkeyPatch) -> None:
    def came_from(record: object) -> str:
        text = None if record is None else json.dumps(record)
        found = SimpleNamespace(read_text=lambda _name: text)
        monkeypatch.setattr(importlib.metadata, "distribution", lambda _name: found)
        return install_line("server")

    assert came_from(None) == "pip install 'edge-lfm[server]'"
    editable = {"url": "file:///home/me/edge%20lfm", "dir_info": {"editable": True}}
    assert came_from(editable) == "pip install -e '/home/me/edge lfm[server]'"
    wheel = {"url": "file:///tmp/edge_lfm-1-py3-none-any.whl", "archive_info": {}}
    assert came_from(wheel) == "pip install '/tmp/edge_lfm-1-py3-none-any.whl[server]'"

    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    root = Path(edge_lfm.__file__).parents[1]
    place = f"-e '{root}[gguf]'" if (root / "pyproject.toml").exists() else "'edge-lfm[gguf]'"
    assert install_line("gguf") == f"pip install {place}"
    assert install_line("gguf") in str(MissingExtraError("GGUF files need gguf", extra="gguf"))


def test_tab_completes_commands_at_the_start_of_a_line() -> None:
    commands = ["/save", "/set", "/stats"]
    assert [completions("/s", "/s", commands, n) for n in range(4)] == [*commands, None]
    assert completions("/s", "/save /s", commands, 0) is None and completions("s", "s", commands, 0) is None


def test_every_verb_has_a_module() -> None:
    assert all(verb_parser(name).EXAMPLE.startswith("edge-lfm ") and verb_module(name).run for name in VERBS)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_verbs_and_options(shell: str) -> None:
    command = [sys.executable, "-P", "-m", "edge_lfm.cli.main", "completion", shell]
    script = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert all(word in script for word in ("quantize", "calibrate", "--strict-model", "--recipe"))
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_ctrl_c_while_an_answer_is_prepared_ends_no_chat(
    demo: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "stream", interrupted)
    with Model.load(demo["int4"], threads=1) as model:
        chat = _Chat(model, parse(["chat"]))
        chat.terminal = True
        chat._take("Hello")
        assert "[stopped]" in capsys.readouterr().out
        chat.terminal = False
        with pytest.raises(KeyboardInterrupt):
            chat._take("Hello")


def test_demo_is_the_name_of_the_embedded_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGE_LFM_MODELS", str(tmp_path / "models"))
    assert settle_model("demo", lambda _: lambda _: None) is None
    for verb in ("bench", "eval", "inspect", "verify", "fit"):
        assert parse([verb, "demo"]).model is None, verb
    (tmp_path / "demo").mkdir()
    assert settle_model("demo", lambda _: lambda _: None) == "demo", "a folder of that name goes first"
    assert str(parse(["inspect", "demo"]).model) == "demo"
