"""How bound JSON is written; options of llguidance, beside a schema as `x-guidance` or for a whole grammar."""

from __future__ import annotations

from typing import Any

JSON_STYLE: dict[str, Any] = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "json_allowed_escapes": 'nrbtf\\"',
}
"""Python's own way to write JSON, which models have read most; free whitespace lets a hot model write spaces for ever.
Without \\u: llguidance takes a key that is spelled with it for another key, whose schema it then does not apply."""
