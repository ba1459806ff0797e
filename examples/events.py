"""Everything that happens while an answer is made, and stopping it early: python examples/events.py [MODEL]"""

import sys

from edge_lfm import Done, Model, Progress, Reasoning, Text, ToolCall

WEATHER = {
    "name": "get_weather",
    "description": "Get the weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}

with Model.load(*sys.argv[1:]) as model:
    with model.stream("What is the weather in Paris?", tools=[WEATHER]) as answer:
        for event in answer:
            match event:
                case Progress(done, total, cached):
                    print(f"prompt: {done} of {total} tokens, {cached} known already")
                case Reasoning(text) | Text(text):
                    print(text, end="")
                case ToolCall(name, arguments):
                    print(f"the model calls {name} with {arguments}")
                case Done(completion):
                    print(f"ended by {completion.finish_reason}, {completion.timings.decode_tps:.0f} tokens/s")
    with model.stream("Tell me a story.") as story:
        print(next(story.texts()), "... enough")  # leaving the block stops the engine
