"""What the memory of a model is counted as, from its description alone."""

from __future__ import annotations

import pytest

from edge_lfm.architectures import read_shape
from edge_lfm.kernels.spec.layout import CONTEXT
from edge_lfm.memory.scratch import plan_scratch
from edge_lfm.quantize.families import FAMILY, family_config


@pytest.mark.parametrize("name", FAMILY)
def test_every_scratch_field_has_its_buffer(name: str) -> None:
    shape = read_shape(family_config(name))
    scratch = plan_scratch(shape, 512, 2)
    names = list(CONTEXT.names or ())
    assert sorted(b.field for b in scratch.buffers) == sorted(names[names.index("x") : names.index("scratch_bytes")])
    assert all(buffer.count > 0 for buffer in scratch.buffers)
    more_threads = plan_scratch(shape, 512, 3)
    assert more_threads.nbytes - scratch.nbytes == scratch.thread_bytes == more_threads.thread_bytes


def test_the_scratch_of_the_24b() -> None:
    """Counted by hand from the fields of CONTEXT: T 512, H 2048, K 4, I 1536 (dense 11776), heads 32 and 8 of 64."""
    tokens, hidden, pairs = 512, 2048, 2048
    quantized = 4 + 1 + 16 / 32  # bytes a value: float32, int8, a group's record
    wide = 3 * hidden  # of a conv layer; qkv has 3072 rows
    gated = max(pairs * 1536, tokens * 11776)
    values = 2 * tokens * hidden + pairs * hidden + gated
    small = tokens * 64 * 4 + pairs * (8 + 4 + 8 + 4) + 65 * 8 + 64 * 8
    shared = int(quantized * values) + 4 * tokens * (hidden + wide) + small
    scratch = plan_scratch(read_shape(family_config("lfm2-24b-a2b")), tokens, 2)
    buffers = sum(buffer.nbytes for buffer in scratch.buffers)
    assert buffers == shared + 2 * scratch.thread_bytes
    assert buffers <= scratch.nbytes < buffers + 4096  # alignment
