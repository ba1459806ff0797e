"""A drafter in plain NumPy, float32: what its drafts must be, slot by slot. Slow and short.

Of each token that the target has read come five of its streams s, and of them keys and values only:

    c = norm(fc s);  k = rotate(norm(k_proj c)), v = v_proj c, for each layer

A block of slots, the newest token and masks, attends to these and to itself in both directions, once. A draft is
argmax(head(norm h) + W2 W1[token before]). (SpecForge's DSpark; llama.cpp's `draft-dspark` gives the same drafts.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.kernels.spec import ref
from edge_lfm.kernels.spec.ref import F32, Quantized
from edge_lfm.model import drafter_plan as names
from edge_lfm.model.reference import Weights
from edge_lfm.model.rotary import rope_table
from edge_lfm.shape import Drafter


class ReferenceDrafter:
    """`weights`: the drafter's, by their canonical names, heads in the order of `DrafterWeights`; `embedding`, `head`:
    of its target. kv_dtype: what keys and values are rounded to when kept."""

    def __init__(
        self,
        drafter: Drafter,
        weights: Weights,
        embedding: F32,
        head: F32 | Quantized,
        kv_dtype: type[np.floating[Any]] = np.float32,
    ) -> None:
        self.drafter, self.weights, self.kv_dtype = drafter, weights, kv_dtype
        self._embedding, self._head = embedding, head
        self.keys: dict[int, F32] = {}
        self.values: dict[int, F32] = {}
        self.position = 0

    def read(self, streams: F32) -> None:
        """Keep keys and values of the next tokens, by the target's tapped streams [T, taps * H]."""
        context = ref.rms_norm(self._linear(names.FC, streams), self._f32(names.HIDDEN_NORM), self.drafter.body.eps)
        for n in range(len(self.drafter.body.layers)):
            keys, values = self._keys_values(n, context)
            nothing = keys[:0]
            self.keys[n] = np.concatenate([self.keys.get(n, nothing), keys])
            self.values[n] = np.concatenate([self.values.get(n, nothing), values])
        self.position += len(streams)

    def draft(self, anchor: int) -> tuple[list[int], F32]:
        """Drafts and their confidences [slots], after the newest token, which the target has not read yet."""
        drafts, confidences = [anchor], []
        for logits, confidence in self._slots(anchor, drafts):
            drafts.append(int(np.argmax(logits)))
            confidences.append(confidence)
        return drafts[1:], np.array(confidences, np.float32)

    def logits(self, anchor: int, drafts: Sequence[int]) -> tuple[F32, F32]:
        """Of each slot, after the drafts that another has made for those before it: logits [slots, vocab] and
        confidences [slots]."""
        logits, confidences = zip(*self._slots(anchor, [anchor, *drafts]), strict=True)
        return np.array(logits, np.float32), np.array(confidences, np.float32)

    def _slots(self, anchor: int, drafts: Sequence[int]) -> Iterator[tuple[F32, np.floating[Any]]]:
        """Logits and confidence of each slot; those of slot n after drafts[n], which may be added on the way."""
        hidden = self._block(anchor)
        w1 = self.weights(names.MARKOV_IN)
        for n, (row, base) in enumerate(zip(hidden, ref.multiply(self._head, hidden), strict=True)):
            last = drafts[n]
            e = Quantized(w1.q[[last]], w1.scale[[last]]).values()[0] if isinstance(w1, Quantized) else w1[last]
            logit = self._f32(names.CONFIDENCE)[0] @ np.concatenate([row, e]) + self._f32(names.CONFIDENCE_BIAS)[0]
            yield base + self._linear(names.MARKOV_OUT, e[None])[0], 1 / (1 + np.exp(-logit))

    def _block(self, anchor: int) -> F32:
        """The normed hidden rows [slots, H] of a block."""
        drafter, eps = self.drafter, self.drafter.body.eps
        h = self._embedding[[anchor] + [drafter.mask] * (drafter.slots - 1)]
        for n, attention in drafter.body.attentions.items():
            at = f"model.layers.{n}"
            u = ref.rms_norm(h, self._f32(f"{at}.operator_norm.weight"), eps)
            q = self._linear(f"{at}.self_attn.q_proj.weight", u).reshape(len(u), -1, attention.width)
            q = self._turned(n, ref.rms_norm(q, self._f32(f"{at}.self_attn.q_layernorm.weight"), eps))
            near = self._keys_values(n, u)
            keys, values = (
                np.concatenate([far.get(n, own[:0]), own])
                for far, own in zip((self.keys, self.values), near, strict=True)
            )
            last = len(keys) - 1  # every slot sees what the last one sees
            mixed = np.concatenate([ref.attention(row[None], keys, values, last) for row in q])
            h = h + self._linear(f"{at}.self_attn.out_proj.weight", mixed)
            u = ref.rms_norm(h, self._f32(f"{at}.ffn_norm.weight"), eps)
            gate, up = (self._linear(f"{at}.feed_forward.{w}.weight", u) for w in ("w1", "w3"))
            h = h + self._linear(f"{at}.feed_forward.w2.weight", ref.silu(gate) * up)
        return ref.rms_norm(h, self._f32(names.NORM), eps)

    def _keys_values(self, n: int, x: F32) -> tuple[F32, F32]:
        """Keys and values [T, kv, hd] of x [T, H] at the next positions, as they are kept."""
        at, width = f"model.layers.{n}.self_attn", self.drafter.body.attentions[n].width
        keys, values = (self._linear(f"{at}.{p}_proj.weight", x).reshape(len(x), -1, width) for p in "kv")
        norm = self._f32(f"{at}.k_layernorm.weight")
        keys = self._turned(n, ref.rms_norm(keys, norm, self.drafter.body.eps))
        return keys.astype(self.kv_dtype).astype(np.float32), values.astype(self.kv_dtype).astype(np.float32)

    def _turned(self, n: int, heads: F32) -> F32:
        rope = self.drafter.body.attentions[n].rope
        assert rope is not None
        return ref.rotate(heads, rope_table(rope, self.position + np.arange(len(heads))))

    def _linear(self, name: str, x: F32) -> F32:
        return ref.multiply(self.weights(name), x)

    def _f32(self, name: str) -> NDArray[np.float32]:
        value = self.weights(name)
        assert not isinstance(value, Quantized)
        return value
