"""What is said at home, as a command for a device: python home_automation.py "Turn on the kitchen light." [ADDRESS]

Speaks Ollama's interface, as Home Assistant does, which is given the same address (`edge-lfm serve --port 11434`). The
answer is bound to the devices that there are, so that it is always a command.
"""

import json
import sys

import ollama

DEVICES = ("kitchen light", "bedroom light", "heating", "door")
COMMAND = {
    "type": "object",
    "properties": {"device": {"enum": list(DEVICES)}, "state": {"enum": ["on", "off"]}},
    "required": ["device", "state"],
    "additionalProperties": False,
}


def main(said: str, address: str = "http://127.0.0.1:11434") -> None:
    messages = [
        {"role": "system", "content": f"Answer with a command as JSON. The devices are: {', '.join(DEVICES)}."},
        {"role": "user", "content": said},
    ]
    answer = ollama.Client(host=address).chat("local", messages, format=COMMAND, options={"temperature": 0})
    command = json.loads(answer.message.content or "")
    print(f"{command['device']}: {command['state']}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
