"""The server as clients meet it: the official OpenAI client, a WebSocket client, and the small routes."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import jsonschema
import openai
import pytest
from serving import serving
from stepping import paging_ram
from websockets.sync.client import connect

from edge_lfm import Model

CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]
PARIS = "The capital of France is Paris."


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=30) as made:
        yield made


@pytest.fixture(scope="module")
def name(client: openai.OpenAI) -> str:
    return client.models.list().data[0].id


@pytest.fixture(scope="module")
def model(demo: dict[str, Path]) -> Iterator[Model]:
    with Model.load(demo["int4"], threads=1, cache=1) as loaded:
        yield loaded


def test_models(client: openai.OpenAI, name: str) -> None:
    assert client.models.retrieve(name).id == name
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("gpt-4o")
    assert refused.value.code == "model_not_found" and name in refused.value.message


def test_chat(client: openai.OpenAI, name: str, model: Model) -> None:
    answer = client.chat.completions.create(model=name, messages=CAPITAL)
    assert answer.choices[0].message.content == PARIS
    assert answer.choices[0].finish_reason == "stop" and answer.object == "chat.completion"
    assert answer.usage and answer.usage.prompt_tokens == len(model.encode_prompt(CAPITAL))
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_turn_is_told_as_cached(client: openai.OpenAI, name: str) -> None:
    messages = [{"role": "user", "content": "My name is Anna and I live in Paris."}]
    first = client.chat.completions.create(model=name, messages=messages)
    messages += [{"role": "assistant", "content": first.choices[0].message.content}]
    messages += [{"role": "user", "content": "What is my name?"}]
    second = client.chat.completions.create(model=name, messages=messages)
    assert "Anna" in second.choices[0].message.content
    cached = second.usage.prompt_tokens_details.cached_tokens
    assert cached >= first.usage.total_tokens - 1


def test_streaming_equals_not_streaming(client: openai.OpenAI, name: str) -> None:
    options = {"model": name, "temperature": 1.2, "seed": 5, "max_tokens": 40}
    for messages in (CAPITAL, [{"role": "user", "content": "Übersetze: the red house — 日本語 🎉"}]):
        whole = client.chat.completions.create(messages=messages, **options)
        chunks = list(
            client.chat.completions.create(
                messages=messages, stream=True, stream_options={"include_usage": True}, **options
            )
        )
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text == whole.choices[0].message.content
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
        assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
        assert len({c.id for c in chunks}) == 1


def test_choices_and_seeds(client: openai.OpenAI, name: str) -> None:
    options = {"model": name, "messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 12}
    several = client.chat.completions.create(n=3, temperature=1.5, seed=1, **options)
    texts = [c.message.content for c in several.choices]
    assert [c.index for c in several.choices] == [0, 1, 2] and len(set(texts)) == 3
    assert several.usage.completion_tokens > 12
    for n, text in enumerate(texts):
        alone = client.chat.completions.create(temperature=1.5, seed=1 + n, **options)
        assert alone.choices[0].message.content == text
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(n=3, temperature=1.5, seed=1, stream=True, **options):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts


def test_stop_limits_and_bias(client: openai.OpenAI, name: str, model: Model) -> None:
    def ask(**options):
        return client.chat.completions.create(model=name, messages=CAPITAL, **options).choices[0]

    assert ask(stop=" is").message.content == "The capital of France"
    cut = ask(max_completion_tokens=2)
    assert cut.finish_reason == "length" and cut.message.content == model.generate(CAPITAL, max_tokens=2).text
    assert PARIS.startswith(cut.message.content) and len(cut.message.content) < len("The capital of")
    word = model.tokenizer.encode(" capital")[0]
    assert " capital" not in ask(logit_bias={str(word): -100}, max_tokens=20).message.content
    assert ask(extra_body={"top_k": 1, "min_p": 0.1, "repeat_penalty": 1.01}, temperature=1).message.content == PARIS


def test_logprobs(client: openai.OpenAI, name: str, model: Model) -> None:
    options = {"model": name, "messages": CAPITAL, "logprobs": True, "top_logprobs": 3}
    told = client.chat.completions.create(**options).choices[0].logprobs.content
    expected = model.generate(CAPITAL, logprobs=3).logprobs
    assert [t.logprob for t in told] == [t.logprob for t in expected[:-1]]  # without the end-of-turn token
    assert "".join(t.token for t in told) == PARIS == b"".join(bytes(t.bytes) for t in told).decode()
    assert all(len(t.top_logprobs) == 3 and t.top_logprobs[0].token == t.token for t in told)
    chunks = client.chat.completions.create(stream=True, **options)
    streamed = [t for c in chunks if c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    assert streamed == told


TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def test_tools(client: openai.OpenAI, name: str) -> None:
    """The demo model was trained to call listed tools; which ones it knows its card says. Here the form is tested."""
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    answer = client.chat.completions.create(model=name, messages=messages, tools=[TOOL]).choices[0]
    assert answer.finish_reason == "tool_calls" and answer.message.content is None
    call = answer.message.tool_calls[0]
    assert call.type == "function" and isinstance(json.loads(call.function.arguments), dict)
    chunks = list(client.chat.completions.create(model=name, messages=messages, tools=[TOOL], stream=True))
    deltas = [d for c in chunks if c.choices for d in c.choices[0].delta.tool_calls or []]
    assert (
        deltas[0].function.arguments == call.function.arguments
        and deltas[0].index == 0
        and chunks[-1].choices[0].finish_reason
    )
    messages += [answer.message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": '{"sky": "clear"}'}]
    reply = client.chat.completions.create(model=name, messages=messages, tools=[TOOL])
    assert reply.choices[0].message.content
    assert reply.usage.prompt_tokens_details.cached_tokens > 50
    quiet = client.chat.completions.create(model=name, messages=messages[:1], tools=[TOOL], tool_choice="none")
    assert quiet.usage.prompt_tokens < 30


def test_completions(client: openai.OpenAI, name: str, model: Model) -> None:
    plain = client.completions.create(model=name, prompt="Once upon a time", max_tokens=8)
    assert plain.choices[0].text == model.generate("Once upon a time", raw=True, max_tokens=8).text
    ids = model.encode_prompt("Once upon a time", raw=True)
    many = client.completions.create(model=name, prompt=[ids, ids[:3]], max_tokens=8, n=2)
    assert [c.index for c in many.choices] == [0, 1, 2, 3] and many.choices[0].text == plain.choices[0].text
    assert many.usage.prompt_tokens == len(ids) + 3
    stream = client.completions.create(model=name, prompt="Once upon a time", max_tokens=8, stream=True, echo=True)
    assert "".join(c.choices[0].text for c in stream) == "Once upon a time" + plain.choices[0].text
    assert client.completions.create(model=name, prompt="Once", echo=True, max_tokens=0).choices[0].text == "Once"


def test_fill_in_the_middle(client: openai.OpenAI, name: str, model: Model) -> None:
    before, after = "def add(a, b):\n    return ", "\n"
    filled = client.completions.create(model=name, prompt=before, suffix=after, max_tokens=20).choices[0].text
    raw = f"<|fim_pre|>{before}<|fim_suf|>{after}<|fim_mid|>"
    assert filled == model.generate(raw, raw=True, max_tokens=20).text and filled.strip()


def test_echoed_logprobs(client: openai.OpenAI, name: str, model: Model) -> None:
    """What evaluation harnesses score texts with."""
    ids = model.encode_prompt("The cat sat on the mat. Une forêt — 日本", raw=True)
    told = client.completions.create(model=name, prompt=ids, echo=True, logprobs=2, max_tokens=1).choices[0].logprobs
    found = model.generate(ids, logprobs=2, prompt_logprobs=True, max_tokens=1)
    assert told.token_logprobs[0] is None
    assert told.token_logprobs[1:] == [t.logprob for t in (*found.prompt_logprobs, *found.logprobs)]
    assert len(told.tokens) == len(ids) + 1 == len(told.text_offset) and told.text_offset[0] == 0
    assert any(token.startswith("bytes:") for token in told.tokens)
    assert all(value in top.values() for value, top in zip(told.token_logprobs[1:], told.top_logprobs[1:], strict=True))
    # Harnesses drop the last token as the generated one: it must be told even when it ends the answer.
    turn = model.encode_prompt([*CAPITAL, {"role": "assistant", "content": PARIS}])
    turn = turn[: turn.index(model.stop_ids[-1], turn.index(model.stop_ids[-1]) + 1)]
    ended = client.completions.create(model=name, prompt=turn, echo=True, logprobs=1, max_tokens=1).choices[0]
    assert ended.finish_reason == "stop" and len(ended.logprobs.tokens) == len(turn) + 1
    silent = client.completions.create(model=name, prompt=ids, echo=True, logprobs=1, max_tokens=0).choices[0].logprobs
    assert silent.token_logprobs == told.token_logprobs[:-1]


def test_responses(client: openai.OpenAI, name: str) -> None:
    first = client.responses.create(model=name, input="My name is Anna and I live in Paris.")
    assert first.status == "completed" and first.output_text and first.output[0].type == "message"
    second = client.responses.create(model=name, input="What is my name?", previous_response_id=first.id)
    assert "Anna" in second.output_text and second.usage.input_tokens_details.cached_tokens > 10
    assert client.responses.retrieve(second.id).output_text == second.output_text
    client.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(second.id)
    cut = client.responses.create(model=name, input=CAPITAL, max_output_tokens=2, store=False)
    assert cut.status == "incomplete" and cut.incomplete_details.reason == "max_output_tokens"
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model=name, input="x", previous_response_id=cut.id)


def test_responses_stream(client: openai.OpenAI, name: str) -> None:
    with client.responses.stream(model=name, input="What is the capital of France?") as stream:
        events = list(stream)
        final = stream.get_final_response()
    kinds = [event.type for event in events]
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert final.output_text == PARIS
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == PARIS


def test_responses_with_tools(client: openai.OpenAI, name: str) -> None:
    tool = {"type": "function", **TOOL["function"]}
    first = client.responses.create(model=name, input="What is the weather in Paris?", tools=[tool])
    call = first.output[0]
    assert call.type == "function_call" and isinstance(json.loads(call.arguments), dict)
    result = [{"type": "function_call_output", "call_id": call.call_id, "output": '{"sky": "clear"}'}]
    after = client.responses.create(model=name, input=result, previous_response_id=first.id, tools=[tool])
    assert after.output_text
    history = [{"role": "user", "content": "What is the weather in Paris?"}, call.model_dump(), *result]
    assert client.responses.create(model=name, input=history, tools=[tool]).output_text == after.output_text
    with client.responses.stream(model=name, input="What is the weather in Paris?", tools=[tool]) as stream:
        assert stream.get_final_response().output[0].arguments == call.arguments


def test_the_asynchronous_client(address: str, name: str) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none") as asynchronous:
            answers = await asyncio.gather(
                *(asynchronous.chat.completions.create(model=name, messages=CAPITAL) for _ in range(12))
            )
            return [answer.choices[0].message.content for answer in answers]

    assert asyncio.run(ask()) == [PARIS] * 12


def test_small_routes(address: str, model: Model) -> None:
    def post(path: str, **body):
        return httpx.post(address + path, json=body).json()

    text = "Hello world! Ä 日本 <|im_end|>"
    ids = post("/tokenize", content=text)["tokens"]
    assert ids == model.tokenizer.encode(text, special=True) and post("/detokenize", tokens=ids)["content"] == text
    with_start = post("/tokenize", prompt="Hello", add_special_tokens=True)
    assert with_start["tokens"] == model.encode_prompt("Hello", raw=True) and with_start["count"] == len(
        with_start["tokens"]
    )
    assert post("/tokenize", messages=CAPITAL)["tokens"] == model.encode_prompt(CAPITAL)
    assert post("/apply-template", messages=CAPITAL)["prompt"] == model.template.render(CAPITAL)
    called = {"type": "function", "function": {"name": "get_time", "arguments": {"city": "Paris"}}}
    turns = [*CAPITAL, {"role": "assistant", "content": "", "tool_calls": [called]}, *CAPITAL]
    text = post("/apply-template", messages=turns)["prompt"]
    assert "get_time" in text and model.tokenizer.encode(text, special=True) == model.encode_prompt(turns)
    assert httpx.get(f"{address}/tokenizer_info").json()["eos_token"] == "<|im_end|>"
    assert httpx.get(f"{address}/health").json() == {"status": "ok"}
    page = httpx.get(address)
    assert (
        "text/html" in page.headers["content-type"] and "default-src 'none'" in page.headers["content-security-policy"]
    )


def test_metrics(address: str, client: openai.OpenAI, name: str) -> None:
    def value(metric: str) -> float:
        lines = httpx.get(f"{address}/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.split("{")[0].split()[0] == metric)

    before = {m: value(m) for m in ("edge_lfm_generated_tokens_total", "edge_lfm_requests_total")}
    answer = client.chat.completions.create(model=name, messages=CAPITAL)
    assert (
        value("edge_lfm_generated_tokens_total")
        == before["edge_lfm_generated_tokens_total"] + answer.usage.completion_tokens
    )
    assert value("edge_lfm_requests_total") == before["edge_lfm_requests_total"] + 1
    assert value("edge_lfm_resident_memory_bytes") > 1e7 and value("edge_lfm_loaded") == 1
    assert value("edge_lfm_time_to_first_token_seconds_count") >= 1


def test_metrics_of_a_paged_model(demo: dict[str, Path]) -> None:
    small = ("--ram", paging_ram(demo["balanced"], 1024, threads=1), "--context", "1024")
    with serving(str(demo["balanced"]), *small) as address:
        httpx.post(f"{address}/v1/chat/completions", json={"messages": CAPITAL}).raise_for_status()
        text = httpx.get(f"{address}/metrics").text
    assert "edge_lfm_expert_hits_total" in text and "edge_lfm_expert_read_bytes_total" in text


def test_progress_while_a_prompt_is_read(address: str) -> None:
    body = {"prompt": "The cat sat on the mat. " * 200, "stream": True, "max_tokens": 2, "return_progress": True}
    with httpx.stream("POST", f"{address}/v1/completions", json=body) as response:
        events = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {")]
    progress = [e["prompt_progress"] for e in events if "prompt_progress" in e]
    assert len(progress) >= 3 and progress[-1]["processed"] == progress[-1]["total"] > 1000
    assert [p["processed"] for p in progress] == sorted(p["processed"] for p in progress)


def test_a_socket(address: str, model: Model) -> None:
    with connect(address.replace("http", "ws") + "/v1/stream") as socket:
        socket.send(json.dumps({"messages": CAPITAL}))
        events = [json.loads(socket.recv())]
        while events[-1]["type"] != "done":
            events.append(json.loads(socket.recv()))
        assert "".join(e["text"] for e in events if e["type"] == "text") == PARIS
        assert events[0]["type"] == "progress"
        assert events[-1]["usage"]["prompt_tokens"] == len(model.encode_prompt(CAPITAL))
        for bad in ("{", '{"messages": []}', '{"messages": [], "n": 2}', '"x"'):
            socket.send(bad)
            assert json.loads(socket.recv())["type"] == "error"
        endless = {"messages": CAPITAL, "logit_bias": {"7": -100, "2": -100}, "temperature": 5}
        socket.send(json.dumps(endless))
        while json.loads(socket.recv())["type"] != "text":
            pass
        socket.send('{"type": "cancel"}')
        while (event := json.loads(socket.recv()))["type"] != "done":
            pass
        assert event["finish_reason"] == "cancelled"
        socket.send(json.dumps({"messages": CAPITAL}))  # the socket is still good
        while json.loads(socket.recv())["type"] != "done":
            pass


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.slow
def test_structured_output(client: openai.OpenAI, name: str) -> None:
    messages = [{"role": "user", "content": "Anna is 31."}]
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    options = {"model": name, "messages": messages, "temperature": 1.5, "max_tokens": 100}
    for seed in range(10):
        found = client.chat.completions.create(seed=seed, response_format=wanted, **options).choices[0]
        assert found.finish_reason == "stop"
        jsonschema.validate(json.loads(found.message.content), PERSON)
    anything = client.chat.completions.create(response_format={"type": "json_object"}, seed=3, **options).choices[0]
    assert anything.finish_reason == "length" or isinstance(json.loads(anything.message.content), dict)
    for extra, pattern in (
        ({"type": "regex", "regex": "[0-9]{3}"}, "[0-9]{3}"),
        ({"type": "choice", "choices": ["red", "blue"]}, "red|blue"),
        ({"type": "grammar", "grammar": 'start: "a" "b"+'}, "ab+"),
    ):
        text = (
            client.chat.completions.create(extra_body={"response_format": extra}, **options).choices[0].message.content
        )
        assert re.match(pattern, text)
    told = client.responses.create(
        model=name, input="Anna is 31.", text={"format": {"type": "json_schema", "name": "person", "schema": PERSON}}
    )
    jsonschema.validate(json.loads(told.output_text), PERSON)


@pytest.mark.slow
def test_documents_and_citations(client: openai.OpenAI, name: str, model: Model) -> None:
    documents = [{"id": "a", "title": "A", "text": "The director is Anna."}, {"id": "b", "text": "It has 70 rooms."}]
    bracket = str(model.tokenizer.encode("[")[0])
    options = {"model": name, "messages": [{"role": "user", "content": "Who?"}], "max_tokens": 60, "temperature": 3}
    extra = {"documents": documents, "citations": True}
    found = []
    for seed in range(20):
        bias = {"logit_bias": {bracket: 12}, "seed": seed, "extra_body": extra}
        message = client.chat.completions.create(**options, **bias).choices[0].message
        for citation in getattr(message, "citations", None) or []:
            assert message.content[citation["start"] : citation["end"]] == f"[{citation['id']}]"
            found.append(citation["id"])
        last = list(client.chat.completions.create(stream=True, **options, **bias))[-1]
        assert [c["id"] for c in getattr(last, "citations", None) or []] == found[
            len(found) - len(getattr(last, "citations", None) or []) :
        ]
    assert set(found) == {"a", "b"}
    with pytest.raises(openai.BadRequestError, match="same id"):
        client.chat.completions.create(extra_body={"documents": documents[:1] * 2}, **options)


@pytest.mark.slow
def test_labels_and_soft_schemas(client: openai.OpenAI, name: str, model: Model) -> None:
    labels = ["yes", "no"]
    options = {"model": name, "messages": [{"role": "user", "content": "Is a cat an animal?"}], "logprobs": True}
    body = {"response_format": {"type": "choice", "choices": labels}}
    choice = client.chat.completions.create(extra_body=body, **options).choices[0]
    assert choice.label_probabilities == model.classify(options["messages"], labels)
    streamed = list(client.chat.completions.create(extra_body=body, stream=True, **options))
    assert streamed[-1].label_probabilities == choice.label_probabilities
    documents = {"documents": ["No cat is an animal, says this document."]}
    other = client.chat.completions.create(extra_body=body | documents, **options).choices[0]
    assert other.label_probabilities != choice.label_probabilities
    kinds = {"item": {"type": "string"}, "quantity": {"type": "integer"}}
    schema = {"type": "object", "properties": kinds, "required": ["item"]}
    text = "Text: Order by Anna: 5 x cup.\nReturn JSON with item, quantity and customer."
    soft = {"type": "json_schema", "json_schema": {"schema": schema}, "soft": 2}
    ask = {"model": name, "messages": [{"role": "user", "content": text}], "extra_body": {"response_format": soft}}
    found = client.chat.completions.create(**ask).choices[0].message.content
    assert json.loads(found)["item"] == "cup"
    with pytest.raises(openai.UnprocessableEntityError, match="after 2 tries"):
        client.chat.completions.create(max_tokens=3, **ask)
    with pytest.raises(openai.BadRequestError, match="soft"):
        client.chat.completions.create(stream=True, **ask)
    kinds["item"]["pattern"] = "cup"
    assert json.loads(client.chat.completions.create(**ask).choices[0].message.content)["item"] == "cup"


def test_written_forms(client: openai.OpenAI, name: str) -> None:
    for wanted, start in (
        ({"type": "csv", "columns": {"name": "text", "age": "integer"}}, "name,age\n"),
        ({"type": "table", "columns": {"name": "text"}}, "| name |\n|---|\n| "),
        ({"type": "xml", "tree": {"a": {"b": "integer"}}}, "<a><b>"),
    ):
        answer = client.chat.completions.create(
            model=name, messages=CAPITAL, max_tokens=30, extra_body={"response_format": wanted}
        )
        assert answer.choices[0].message.content.startswith(start)
    with pytest.raises(openai.BadRequestError, match="no column"):
        client.chat.completions.create(model=name, messages=CAPITAL, extra_body={"response_format": {"type": "csv"}})
