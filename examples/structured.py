"""An answer that is always valid: a JSON schema and a choice of labels: python examples/structured.py [MODEL]"""

import json
import sys

from edge_lfm import Model

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "city": {"type": "string"}},
    "required": ["name", "city"],
    "additionalProperties": False,
}

with Model.load(*sys.argv[1:]) as model:
    text = "Extract name and city as JSON: Anna lives in Paris."
    print(json.loads(model.generate(text, schema=PERSON, max_tokens=60).text))
    print(model.generate("Is a cat an animal?", choices=["yes", "no"]).text)
