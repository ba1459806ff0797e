"""The C header of the prebuilt kernels, written from the records and entry points that Python itself uses.

Pointers stand in 64-bit integers, as the kernels see them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_lfm.kernels.spec import layout
from edge_lfm.kernels.spec.entry import ENTRIES
from edge_lfm.kernels.spec.schemes import SCHEMES, TILE_ROWS

HEADER_NAME = "edge_lfm_kernels.h"
_RECORDS = {
    "matrix": layout.MATRIX,
    "layer": layout.LAYER,
    "latent": layout.LATENT,
    "state": layout.STATE,
    "row": layout.ROW,
    "context": layout.CONTEXT,
    "product": layout.PRODUCT,
    "feedback": layout.FEEDBACK,
}
_CONSTANTS = ("LAYOUT_VERSION", "GROUP", "ACTIVATION_BYTES", "SYNC_BYTES", "COUNTER", "ERROR")
_TYPES = {np.dtype("i8"): "int64_t", np.dtype("f4"): "float", layout.MATRIX: "edge_lfm_matrix"}
_PREAMBLE = """\
/* Kernels of edge-lfm: int4/int8 matrices, short convolution, attention, experts, for one processor.
 *
 * Addresses are int64_t. Records are filled in by the caller; what each field holds, its shape and dtype
 * stand in kernels/spec/layout.py. No function allocates or raises; `ctx` may be shared by as many
 * threads as its field `threads` says, which then all make the same call.
 */
#ifndef EDGE_LFM_KERNELS_H
#define EDGE_LFM_KERNELS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
"""


def header_text() -> str:
    """The header, whole."""
    lines = [_PREAMBLE]
    lines += [f"#define EDGE_LFM_{name} {getattr(layout, name)}" for name in _CONSTANTS]
    lines.append(f"#define EDGE_LFM_TILE_ROWS {TILE_ROWS}")
    for name, size in (
        ("SCRATCH", layout.scratch_bytes),
        ("ATTENTION_SCRATCH", layout.attention_scratch_bytes),
        ("LATENT_SCRATCH", layout.latent_scratch_bytes),
        ("ENCODE_SCRATCH", layout.encode_scratch_bytes),
    ):
        fixed, per_group = size(0), size(layout.GROUP) - size(0)
        lines.append(f"#define EDGE_LFM_{name}_BYTES(cols) ({fixed} + (cols) / EDGE_LFM_GROUP * {per_group})")
    lines.append("")
    for scheme in SCHEMES.values():
        columns = "EDGE_LFM_GROUP" if scheme.columns == layout.GROUP else scheme.columns
        lines.append(f"/* a tile of {scheme.name}: header + cols / {columns} * group bytes */")
        lines.append(f"#define EDGE_LFM_{scheme.name.upper()} {scheme.id}")
        lines.append(f"#define EDGE_LFM_{scheme.name.upper()}_HEADER_BYTES {scheme.header_bytes}")
        lines.append(f"#define EDGE_LFM_{scheme.name.upper()}_GROUP_BYTES {scheme.group_bytes}\n")
    lines += [_struct(name, record) for name, record in _RECORDS.items()]
    for entry in ENTRIES:
        arguments = ", ".join(f"int64_t {name}" for name in entry.arguments)
        lines.append(f"int64_t {entry.symbol}({arguments}); /* kernels/ops/{entry.module}.py */")
    lines.append("\n#ifdef __cplusplus\n}\n#endif\n#endif")
    return "\n".join(lines) + "\n"


def _struct(name: str, record: np.dtype[Any]) -> str:
    fields = "\n".join(f"    {_TYPES[kind]} {field};" for field, (kind, *_) in dict(record.fields or {}).items())
    size = f'_Static_assert(sizeof(edge_lfm_{name}) == {record.itemsize}, "{name}");'
    return f"typedef struct {{\n{fields}\n}} edge_lfm_{name};\n#ifndef __cplusplus\n{size}\n#endif\n"
