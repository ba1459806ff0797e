"""A conversation that survives the end of the program: python examples/remember.py [MODEL]

The first run tells a fact; later runs go on where it ended, without reading the conversation again.
"""

import sys
from pathlib import Path

from edge_lfm import Model

TALK = Path("talk.session")

with Model.load(*sys.argv[1:]) as model:
    session = model.restore(TALK) if TALK.exists() else model.session()
    answer = session.send("What is my name?" if session.messages else "My name is Anna and I live in Paris.")
    print(answer.text)
    print(f"{answer.timings.cached_tokens} of {answer.timings.prompt_tokens} tokens were known", file=sys.stderr)
    session.save(TALK)
