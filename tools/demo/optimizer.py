"""Muon for matrices, Adam for the rest; float32 master weights, copies of the type `COMPUTE` in the network.

Muon: momentum, then the nearest orthogonal matrix by Newton-Schulz (Jordan et al. 2024). Each expert, and each third of
a conv's in_proj, is a matrix of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from demo.gradients import COMPUTE

MUON_RATE, ADAM_RATE, WEIGHT_DECAY = 0.01, 0.003, 0.05
_MOMENTUM, _BETAS = 0.95, (0.9, 0.98)
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5


@dataclass
class _Slot:
    """A parameter, its master weights, and what the optimizer remembers of its gradients."""

    name: str
    parameter: nn.Parameter
    muon: bool
    master: Tensor
    mean: Tensor
    square: Tensor = field(default_factory=lambda: torch.zeros(0))


class Optimizer:
    """Steps with a rate that the caller scales; gradients are dropped after each."""

    def __init__(self, network: nn.Module) -> None:
        self.steps = 0
        self.slots: list[_Slot] = []
        for name, parameter in network.named_parameters():
            muon = parameter.dim() >= 2 and name.split(".")[-1] not in ("embedding", "gate", "taps")
            slot = _Slot(name, parameter, muon, parameter.detach().float().clone(), torch.zeros(parameter.shape))
            if not muon:
                slot.square = torch.zeros(parameter.shape)
            self.slots.append(slot)

    @torch.no_grad()
    def step(self, rate: float, gradient_scale: float) -> None:
        """`rate`: 0..1, of the peak rates."""
        self.steps += 1
        for slot in self.slots:
            assert slot.parameter.grad is not None
            gradient = slot.parameter.grad.float() * gradient_scale
            slot.parameter.grad = None
            (_muon if slot.muon else self._adam)(slot, gradient, rate)
            slot.parameter.copy_(slot.master)

    def _adam(self, slot: _Slot, gradient: Tensor, rate: float) -> None:
        first, second = _BETAS
        slot.mean.lerp_(gradient, 1 - first)
        slot.square.lerp_(gradient * gradient, 1 - second)
        spread = (slot.square / (1 - second**self.steps)).sqrt() + 1e-10
        slot.master.sub_(slot.mean / (1 - first**self.steps) / spread, alpha=rate * ADAM_RATE)

    def state(self) -> dict[str, Any]:
        """All that a run needs to go on."""
        kept = {slot.name: (slot.master, slot.mean, slot.square) for slot in self.slots}
        return {"steps": self.steps, "slots": kept}

    @torch.no_grad()
    def load(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        for slot in self.slots:
            slot.master, slot.mean, slot.square = state["slots"][slot.name]
            slot.parameter.copy_(slot.master)


def _muon(slot: _Slot, gradient: Tensor, rate: float) -> None:
    slot.mean.lerp_(gradient, 1 - _MOMENTUM)
    update = torch.lerp(gradient, slot.mean, _MOMENTUM)
    shape = update.shape
    parts = {"w13": 2, "in_proj": 3}.get(slot.name.split(".")[-1], 1)  # matrices that lie under one another
    stacked = update.view(-1, shape[-2] // parts, shape[-1])
    turned = _orthogonal(stacked).reshape(shape).float()
    scale = rate * MUON_RATE * max(1.0, stacked.shape[-2] / shape[-1]) ** 0.5
    slot.master.mul_(1 - rate * MUON_RATE * WEIGHT_DECAY).add_(turned, alpha=-scale)


def _orthogonal(matrices: Tensor) -> Tensor:
    """The orthogonal matrix nearest to each of [n, rows, cols], about."""
    a, b, c = _COEFFICIENTS
    x = matrices.to(COMPUTE)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT.contiguous() if tall else x
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True).to(x.dtype) + 1e-7)
    for _ in range(_STEPS):
        s = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(s, s, s, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
