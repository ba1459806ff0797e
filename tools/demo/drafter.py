"""Train a drafter for the demo model, a quarter of an hour of one core, and write it in the published layout.

    PYTHONPATH=tools python -m demo.drafter CHECKPOINT --texts texts.jsonl -o OUT [--minutes 15]

Rows of 512 tokens of what the demo model wrote (`drafter_texts.py`), 4 a step, documents hidden from each other. Of
each, 40 anchors that an answer follows; one pass of the frozen target gives features and the teacher's distributions,
for two steps: the second is of other anchors, some time later. Slot j of a block is told the true token before it, and
learns the teacher's distribution p after it by its own, q: .5 KL(p|q) + .1 cross entropy + .9 TV(p, q) +
.2 BCE(confidence, 1 - TV), times exp(-j / 4); both over the tokens that occur in answers, and some others.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 (torch's custom)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from demo.drafter_network import BLOCK, CONFIG, HIDDEN, MASK, TAPS, VOCAB, Drafter
from demo.gradients import COMPUTE
from demo.network import Network
from demo.optimizer import Optimizer

ROW, ROWS, ANCHORS = 512, 4, 40
_WARM_UP, _CONSTANT = 30, 0.4
_DECAY = torch.exp(-torch.arange(BLOCK).float() / 4)
_LOG_STEPS = 20
_KEPT = 300
"""Batches at hand, at 6 MB."""
_OTHERS = 256


Document = tuple[list[int], list[int]]
"""Token ids, and 1 for each that an answer has."""


def read_documents(texts: Path) -> list[Document]:
    lines = [json.loads(line) for line in texts.read_text(encoding="utf-8").splitlines()]
    return [(d["prompt"] + d["answer"], [0] * len(d["prompt"]) + [1] * len(d["answer"])) for d in lines]


def rows_of(documents: list[Document], shuffled: random.Random) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """Endless rows: token ids, 1 where an answer stands, and documents' numbers, each [ROW]."""
    waiting: list[Document] = []
    while True:
        if len(waiting) < 60:
            waiting = shuffled.sample(documents, len(documents)) + waiting
        ids: list[int] = []
        written: list[int] = []
        numbers: list[int] = []
        for n in range(len(waiting) - 1, len(waiting) - 40, -1):
            if len(waiting[n][0]) <= ROW - len(ids):
                more, answer = waiting.pop(n)
                numbers += [n] * len(more)
                ids, written = ids + more, written + answer
        empty = ROW - len(ids)
        yield ids + [MASK] * empty, written + [0] * empty, numbers + [-1] * empty


@dataclass(frozen=True)
class Batch:
    """Rows, and what the target makes of them. ids, documents: [ROWS, ROW]; places: of each row, those that an answer
    follows; taps [ROWS, ROW, taps * H] and last [ROWS, ROW, H], the logits' input, float16."""

    ids: Tensor
    documents: Tensor
    places: list[list[int]]
    taps: Tensor
    last: Tensor

    def anchors(self, draw: random.Random) -> Tensor:
        """Some of the places [ROWS, ANCHORS]."""
        return torch.tensor([sorted(draw.sample(places, ANCHORS)) for places in self.places])


def batches(target: Network, documents: list[Document], draw: random.Random) -> Iterator[Batch]:
    """Endless; every other one is one of the earlier ones again."""
    rows, kept = rows_of(documents, draw), list[Batch]()
    while True:
        made: list[tuple[list[int], list[int], list[int]]] = []
        while len(made) < ROWS:
            ids, written, numbers = next(rows)
            places = [p for p in range(1, ROW - BLOCK) if written[p + 1]]
            if len(places) >= ANCHORS:
                made.append((ids, numbers, places))
        ids, numbers = (torch.tensor([row[part] for row in made]) for part in (0, 1))
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            taps, last = target.features(ids, numbers, TAPS)
        kept.append(Batch(ids, numbers, [row[2] for row in made], taps.half(), last.half()))
        yield kept[-1]
        yield kept[draw.randrange(len(kept))] if len(kept) < _KEPT else kept.pop(0)


class Spoken:
    """The tokens that occur in answers. The others are a third of what a step computes, and never drafted rightly: a
    step has a few of them, drawn anew, that their logits stay low."""

    def __init__(self, documents: list[Document]) -> None:
        found = {token for ids, written in documents for token, answer in zip(ids, written, strict=True) if answer}
        self.ids = torch.tensor(sorted(found))
        self.others = torch.tensor([n for n in range(VOCAB) if n not in found])
        self.place = torch.zeros(VOCAB, dtype=torch.long)
        self.place[self.ids] = torch.arange(len(found))

    def draw(self) -> Tensor:
        """Ids of a step's tokens: first those of answers."""
        return torch.cat((self.ids, self.others[torch.randperm(len(self.others))[:_OTHERS]]))


def loss_of(drafter: Drafter, embedding: Tensor, spoken: Spoken, batch: Batch, anchors: Tensor) -> tuple[Tensor, ...]:
    """The loss; and where the drafter's first choice is the teacher's [blocks, BLOCK]. embedding: the target's."""
    ids, documents, rows, taps = batch.ids, batch.documents, len(batch.ids), batch.taps.float()
    tokens = spoken.draw()
    head = embedding[tokens]
    slots = (anchors[:, :, None] + torch.arange(BLOCK)).view(rows, -1)  # their positions
    true, blocks = ids.gather(1, slots), torch.arange(slots.shape[1]) // BLOCK
    given = torch.where(torch.arange(slots.shape[1]) % BLOCK == 0, true, torch.full_like(true, MASK))
    places = torch.arange(ROW).expand(rows, -1)
    own = documents.gather(1, anchors).repeat_interleave(BLOCK, 1)
    before = places[:, None] < anchors.repeat_interleave(BLOCK, 1)[:, :, None]
    near = (blocks[:, None] == blocks).expand(rows, -1, -1)
    mask = torch.cat(((own[:, :, None] == documents[:, None]) & before, near), 2)
    hidden = drafter(taps, places, F.embedding(given, embedding), slots, mask)
    markov = drafter.markov_head.markov_w1(true)
    logits = hidden @ head.t() + markov @ drafter.markov_head.markov_w2.weight[tokens].t()
    logs = torch.log_softmax(logits.float(), -1)
    with torch.no_grad():
        seen = batch.last.gather(1, slots[..., None].expand(-1, -1, HIDDEN)).float()
        teacher = torch.softmax((seen @ head.t()).float(), -1)
    cross = -logs.gather(2, spoken.place[ids.gather(1, slots + 1)][..., None])[..., 0]
    kl = (teacher * (torch.log(teacher + 1e-9) - logs)).sum(-1)
    variation = 0.5 * (logs.exp() - teacher).abs().sum(-1)
    logit = drafter.confidence_head.proj(torch.cat((hidden, markov), -1))[..., 0].float()
    confidence = F.binary_cross_entropy_with_logits(logit, (1 - variation).detach(), reduction="none")
    weight = (documents.gather(1, slots + 1) == own).float() * _DECAY.repeat(ANCHORS)
    loss = ((0.5 * kl + 0.1 * cross + 0.9 * variation + 0.2 * confidence) * weight).sum() / weight.sum()
    return loss, (logs.argmax(-1) == teacher.argmax(-1)).view(-1, BLOCK)


def train(drafter: Drafter, target: Network, texts: Path, seconds: float, seed: int) -> int:
    """Muon and Adam; the rate rises over some steps, is constant, and falls linearly to 0 over the last 60 % of the
    time. The number of steps."""
    documents, draw, hits = read_documents(texts), random.Random(seed), torch.zeros(BLOCK)
    spoken, embedding, made = Spoken(documents), target.embedding.float(), batches(target, documents, draw)
    optimizer, started, step = Optimizer(drafter), time.monotonic(), 0
    while (done := (time.monotonic() - started) / seconds) < 1:
        rate = min(1.0, (step + 1) / _WARM_UP) * min(1.0, (1 - done) / (1 - _CONSTANT))
        batch = next(made)
        with torch.autocast("cpu", torch.bfloat16, enabled=COMPUTE is torch.bfloat16):
            loss, hit = loss_of(drafter, embedding, spoken, batch, batch.anchors(draw))
        loss.backward()
        nn.utils.clip_grad_norm_(drafter.parameters(), 1.0)
        optimizer.step(rate, 1.0)
        hits += hit.float().mean(0)
        step += 1
        if step % _LOG_STEPS == 0:
            by_slot = " ".join(f"{share:.2f}" for share in hits / _LOG_STEPS)
            spent = time.monotonic() - started
            print(f"step {step}, {spent:.0f} s, loss {float(loss.detach()):.3f}, hits by slot {by_slot}", flush=True)
            hits.zero_()
    return step


def write(drafter: Drafter, folder: Path) -> None:
    """The drafter as it would be published."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().to(torch.bfloat16).contiguous() for name, value in drafter.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # made for its owner alone
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--begin", type=Path, help="a drafter to go on from")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    target = Network(seed=0)
    target.load_hub(load_file(args.checkpoint / "model.safetensors"))
    drafter = Drafter()
    if args.begin:
        drafter.load_state_dict(load_file(args.begin / "model.safetensors"))
    steps = train(drafter, target.requires_grad_(False), args.texts, args.minutes * 60, args.seed)
    print(f"{steps} steps, {time.process_time():.0f} s of processors")
    write(drafter, args.output)


if __name__ == "__main__":
    main()
