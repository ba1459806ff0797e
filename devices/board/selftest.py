"""Whether this board computes what the machine that made the bundle computed: the demo model's answer, by tokens."""

import json
import sys
import time
from pathlib import Path

from edge_lfm import Model
from edge_lfm.errors import EdgeLfmError

answers = json.loads(Path(__file__).with_name("expected.json").read_text(encoding="utf-8"))
try:
    with Model.load() as model:
        started, total = time.perf_counter(), 0
        for expected in answers:
            golden_ids = expected["token_ids"]
            token_ids = list(model.generate(expected["prompt"], temperature=0, max_tokens=len(golden_ids)).token_ids)
            total += len(token_ids)
            if token_ids != golden_ids:
                sys.exit(f"self-test: {expected['prompt']!r}: expected the tokens {golden_ids}, got {token_ids}")
        seconds = time.perf_counter() - started
        print(f"self-test: {model.isa}, {total} tokens of the demo model in {seconds:.2f} s, all as expected")
except EdgeLfmError as error:
    sys.exit(f"self-test: {error}")
