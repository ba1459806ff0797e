"""Switches of a chat template (`chat_template_kwargs`) from Python, a session, the command and the server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from edge_lfm.api import LoadOptions, Model
from edge_lfm.cli.main import main
from edge_lfm.errors import UsageError
from edge_lfm.server.app import make_app
from edge_lfm.server.settings import Settings

CAPITAL = "What is the capital of France?"
ON = {"brief": True}


@pytest.fixture(scope="module")
def folder(demo: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with a template whose switch leaves out the user's text."""
    made = tmp_path_factory.mktemp("switch") / "model"
    shutil.copytree(demo["int4"], made)
    path = made / "chat_template.jinja"
    whole = path.read_text(encoding="utf-8")
    path.write_text("{% if brief is defined and brief %}{{ bos_token }}{% else %}" + whole + "{% endif %}", "utf-8")
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[Model]:
    with Model.load(folder, threads=1, context=512) as loaded:
        yield loaded


def test_python(model: Model) -> None:
    plain = model.encode_prompt(CAPITAL)
    assert model.encode_prompt(CAPITAL, chat_template_kwargs=ON) == [model.tokenizer.start_id]  # type: ignore[union-attr]
    assert model.encode_prompt(CAPITAL, chat_template_kwargs={"brief": False}) == plain
    assert model.generate(CAPITAL, chat_template_kwargs=ON, max_tokens=1).usage["prompt_tokens"] == 1
    assert model.session().send(CAPITAL, chat_template_kwargs=ON, max_tokens=1).usage["prompt_tokens"] == 1
    for wrong in ({"chat_template_kwargs": {"enable_thinking": False}}, {"chat_template_kwargs": ON, "raw": True}):
        with pytest.raises(UsageError, match=r"enable_thinking|need a chat"):
            model.generate(CAPITAL, **wrong)


@pytest.mark.slow
def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", str(folder), CAPITAL, "--threads", "1", "-n", "1", "--json", "--chat-template-kwargs"]
    assert main([*command, '{"brief": true}']) == 0
    assert '"prompt_tokens": 1,' in capsys.readouterr().out
    assert main([*command, '{"brif": 1}']) == 2
    assert "no switch 'brif'" in capsys.readouterr().err
    for wrong in ("[]", "{", "nothing"):
        with pytest.raises(SystemExit):
            main([*command, wrong])
        assert "is not a JSON object" in capsys.readouterr().err


@pytest.mark.slow
def test_the_server(folder: Path) -> None:
    settings = Settings(load=LoadOptions(folder, threads=1, context=512))
    chat = {"messages": [{"role": "user", "content": CAPITAL}], "max_tokens": 1, "chat_template_kwargs": ON}
    with TestClient(make_app(settings), base_url="http://127.0.0.1") as client:
        assert client.post("/v1/chat/completions", json=chat).json()["usage"]["prompt_tokens"] == 1
        response = {"input": CAPITAL, "max_output_tokens": 1, "chat_template_kwargs": ON}
        assert client.post("/v1/responses", json=response).json()["usage"]["input_tokens"] == 1
        assert (
            client.post("/apply-template", json={k: v for k, v in chat.items() if k != "max_tokens"}).json()["prompt"]
            == "<|startoftext|>"
        )
        refused = client.post("/v1/chat/completions", json=chat | {"chat_template_kwargs": {"brif": 1}})
        assert refused.status_code == 400 and "brif" in refused.json()["error"]["message"]
