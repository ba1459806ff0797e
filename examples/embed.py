"""A model inside an application, in ten lines: python examples/embed.py [MODEL]"""

import sys

from edge_lfm import Model

with Model.load(*sys.argv[1:]) as model:
    session = model.session(system="You are a helpful assistant.")
    for question in ("My name is Anna and I live in Paris.", "What is my name?"):
        for text in session.stream(question).texts():
            print(text, end="", flush=True)
        print()
