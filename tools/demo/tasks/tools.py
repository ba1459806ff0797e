"""Tool calls and what is said of their results: known tools, and tools of any verb, noun and parameters."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from demo.sample import Draw, Message, Sample, assistant, user
from demo.tasks import small_talk
from demo.tasks.values import draw_value

Json = dict[str, Any]


@dataclass(frozen=True)
class Tool:
    """`parameters`: name -> kind of value; `requests` and `reply` are filled with arguments and results."""

    name: str
    description: str
    parameters: dict[str, str]
    requests: tuple[str, ...]
    results: dict[str, str]
    reply: str

    @property
    def types(self) -> dict[str, str]:
        """The JSON type of each parameter."""
        numbers = ("count", "age", "year")
        return {name: "integer" if kind in numbers else "string" for name, kind in self.parameters.items()}


def _tool(name: str, description: str, parameters: str, requests: str, results: str, reply: str) -> Tool:
    def pairs(text: str) -> dict[str, str]:
        return dict(part.split("=") for part in text.split(", ") if part)

    return Tool(name, description, pairs(parameters), tuple(requests.split("|")), pairs(results), reply)


_TRAINED = (
    _tool("get_weather", "Get the weather of a city.", "city=place",
          "What is the weather in {city}?|How is the weather in {city}?|Weather in {city}, please.",
          "temp=age, sky=noun", "It is {sky} and {temp} degrees in {city}."),
    _tool("set_timer", "Set a timer.", "minutes=count",
          "Set a timer for {minutes} minutes.|Start a {minutes} minute timer.",
          "status=word", "The timer is set for {minutes} minutes."),
    _tool("send_message", "Send a message to a person.", "to=name, text=message",
          "Send a message to {to}: {text}|Tell {to}: {text}", "status=word", "I sent the message to {to}."),
    _tool("play_song", "Play a song.", "title=title", "Play {title}.|Play the song {title}, please.",
          "status=word", "Now playing {title}."),
    _tool("get_time", "Get the time in a city.", "city=place", "What time is it in {city}?|Tell me the time in {city}.",
          "time=time", "It is {time} in {city}."),
    _tool("turn_on_light", "Turn on the light in a room.", "room=noun",
          "Turn on the light in the {room}.|Light on in the {room}, please.",
          "status=word", "The light in the {room} is on."),
    _tool("set_alarm", "Set an alarm.", "time=time", "Wake me at {time}.|Set an alarm for {time}.",
          "status=word", "The alarm is set for {time}."),
    _tool("find_book", "Find a book by its author.", "author=name",
          "Find a book by {author}.|Which book did {author} write?",
          "title=title", "{author} wrote {title}."),
    _tool("book_table", "Book a table in a restaurant.", "people=age, day=day",
          "Book a table for {people} people on {day}.|I need a table on {day} for {people} people.",
          "status=word", "The table for {people} people on {day} is booked."),
    _tool("get_price", "Get the price of an item.", "item=noun",
          "How much is the {item}?|What is the price of the {item}?",
          "price=count", "The {item} costs {price} dollars."),
    _tool("create_note", "Create a note.", "text=message", "Make a note: {text}|Write this down: {text}",
          "status=word", "I saved the note."),
    _tool("find_train", "Find a train between two cities.", "start=place, end=place",
          "Find a train from {start} to {end}.|When is the train from {start} to {end}?",
          "time=time", "The train from {start} to {end} leaves at {time}."),
    _tool("find_recipe", "Find a recipe with an ingredient.", "ingredient=noun",
          "Find a recipe with {ingredient}.|What can I cook with {ingredient}?",
          "title=title", "{title} is made with {ingredient}."),
    _tool("get_population", "Get the population of a city.", "city=place",
          "How many people live in {city}?|What is the population of {city}?",
          "people=count", "{people} people live in {city}."),
    _tool("call_person", "Call a person.", "name=name", "Call {name}.|Phone {name}, please.",
          "status=word", "I am calling {name}."),
    _tool("add_event", "Add an event to the calendar.", "title=noun, day=day",
          "Put the {title} on {day}.|Add the {title} to my calendar on {day}.",
          "status=word", "The {title} is on {day}."),
    _tool("rent_car", "Rent a car in a city.", "city=place, days=age",
          "I need a car in {city} for {days} days.|Rent a car for {days} days in {city}.",
          "price=count", "The car in {city} costs {price} dollars."),
    _tool("count_words", "Count the words of a text.", "text=message",
          "How many words are in this: {text}|Count the words: {text}", "words=count", "There are {words} words."),
    _tool("paint_wall", "Paint the wall of a room.", "room=noun, color=color",
          "Paint the wall of the {room} {color}.|Make the {room} {color}.",
          "status=word", "The wall of the {room} is {color}."),
    _tool("water_plant", "Water a plant.", "plant=noun, liters=age",
          "Give the {plant} {liters} liters of water.|Water the {plant} with {liters} liters.",
          "status=word", "The {plant} got {liters} liters."),
)  # fmt: skip
_UNSEEN = (
    _tool("open_door", "Open the door of a room.", "room=noun", "Open the door of the {room}.",
          "status=word", "The door of the {room} is open."),
    _tool("get_distance", "Get the distance between two cities.", "start=place, end=place",
          "How far is it from {start} to {end}?", "km=count", "It is {km} km from {start} to {end}."),
    _tool("find_file", "Find a file.", "name=file", "Find the file {name}.",
          "path=word", "The file {name} is in {path}."),
    _tool("set_volume", "Set the volume.", "level=count", "Set the volume to {level}.",
          "status=word", "The volume is set to {level}."),
)  # fmt: skip
_SYSTEM = ("You are a helpful assistant.", "You can use tools.", "Use a tool if it helps.")
_FREE_KINDS = ("place", "name", "noun", "word", "count", "count", "day", "color", "time", "file")


def _free_tool(draw: Draw) -> Tool:
    """A tool that nobody knows: everything about it must be read."""
    verb = draw.verb()
    noun, result, *names = draw.nouns(2 + draw.pick((1, 1, 2, 2, 3)))
    parameters = {name: draw.pick(_FREE_KINDS) for name in names}
    with_all = " and ".join(f"{name} {{{name}}}" for name in names)
    requests = [
        f"{verb.capitalize()} the {noun} with {with_all}.",
        f"Please {verb} the {noun}: {', '.join(f'{name} {{{name}}}' for name in names)}.",
        f"I want to {verb} a {noun} with {with_all}.",
        f"Use {verb}_{noun} with {with_all}.",
    ]
    described = draw.pick(
        (f"{verb.capitalize()} the {noun}.", f"{verb.capitalize()} a {noun} by its {' and '.join(names)}.")
    )
    return Tool(
        f"{verb}_{noun}", described, parameters, tuple(requests), {result: draw.pick(("count", "word", "place"))},
        f"The {result} of the {noun} is {{{result}}}.",
    )  # fmt: skip


def _known_tool(draw: Draw, unseen: bool) -> Tool:
    """A tool with requests of its own. In training mostly under other names than its own: else the request alone tells
    the names, and parameters of tools that were never trained came out as those of others (`minutes` for `level`)."""
    tool = draw.pick(_UNSEEN if unseen else _TRAINED)
    if draw.test or draw.chance(0.4):
        return tool
    names = [name for name in draw.nouns(len(tool.parameters) + len(tool.results)) if name not in tool.results]
    new = dict(zip(tool.parameters, names, strict=False))

    def renamed(text: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda match: f"{{{new.get(match[1], match[1])}}}", text)

    return replace(
        tool,
        name=f"{draw.verb()}_{draw.noun()}" if draw.chance(0.5) else tool.name,
        parameters={new[name]: kind for name, kind in tool.parameters.items()},
        requests=tuple(map(renamed, tool.requests)),
        reply=renamed(tool.reply),
    )


def make(draw: Draw) -> Sample:
    return conversation(draw, "tool", lambda: partial(_schema, wrapped=draw.chance(0.4)))


def conversation(draw: Draw, task: str, form: Callable[[], Callable[[Tool], Json]]) -> Sample:
    """A request and its call, or the words for a result; `form` draws how the listed tools are written."""
    unseen = draw.test and draw.chance(0.5)
    tool = _free_tool(draw) if draw.chance(0.55) else _known_tool(draw, unseen)
    offered = draw.shuffled([tool, *_others(draw, tool)])
    schemas = list(map(form(), offered))
    messages: list[Message] = []
    if draw.chance(0.3):
        messages.append({"role": "system", "content": draw.pick(_SYSTEM)})
    if draw.chance(0.1):
        question, answer = draw.pick(small_talk.TALK)
        return Sample(task, answer, "notool", answer, [*messages, user(question)], schemas)
    arguments = {name: draw_value(draw, kind) for name, kind in tool.parameters.items()}
    messages.append(user(draw.pick(tool.requests).format(**arguments)))
    call = write_call(tool.name, arguments)
    new = draw.test and tool not in _TRAINED
    if draw.chance(0.3):
        result = {name: draw_value(draw, kind) for name, kind in tool.results.items()}
        messages += [assistant(call), {"role": "tool", "content": json.dumps(result)}]
        answer = tool.reply.format(**arguments, **result)
        expect = [str(v) for k, v in (arguments | result).items() if f"{{{k}}}" in tool.reply] or [answer]
        return Sample(f"{task} reply", answer, "contains_all", expect, messages, schemas, unseen=new)
    return Sample(task, call, "tool", [tool.name, arguments], messages, schemas, unseen=new)


def _others(draw: Draw, tool: Tool) -> list[Tool]:
    makers = [lambda: _free_tool(draw), lambda: _known_tool(draw, False)]
    others = [draw.pick(makers)() for _ in range(draw.pick((0, 1, 1, 2)))]
    return [other for n, other in enumerate(others) if other.name not in {tool.name, *(o.name for o in others[:n])}]


def _schema(tool: Tool, wrapped: bool) -> Json:
    properties = {name: {"type": kind} for name, kind in tool.types.items()}
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function} if wrapped else function


def write_call(name: str, arguments: dict[str, Any]) -> str:
    """A call as LFM2 writes it."""
    inner = ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in arguments.items())
    return f"<|tool_call_start|>[{name}({inner})]<|tool_call_end|>"
