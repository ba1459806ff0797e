"""A packed drafter folder: as a packed model, with its own plan, and the name of the model that it is for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_lfm.architectures.dspark import is_drafter, read_drafter
from edge_lfm.errors import DrafterError, ModelFileError
from edge_lfm.model.drafter_plan import Target, check_target, plan_drafter
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.plan import PackedTensor, Schemes
from edge_lfm.shape import Drafter, Shape


class PackedDrafter(PackedModel):
    """An open packed drafter; a context manager.

    Raises:
        ModelFileError, UnsupportedModelError: as `PackedModel`, or the folder is no drafter.
    """

    drafter: Drafter

    def _describe(self, raw: Mapping[str, Any], where: Path) -> Shape:
        if not is_drafter(raw):
            raise ModelFileError(f"{self.folder} is no drafter", hint="give what edge-lfm quantize --target made")
        self.drafter = read_drafter(raw, str(where))
        return self.drafter.body

    def _plan(self, schemes: Schemes) -> list[PackedTensor]:
        return plan_drafter(self.drafter, schemes)

    @property
    def target(self) -> Target:
        """The model that it was packed for."""
        target = self.provenance.get("target")
        target = target if isinstance(target, Mapping) else {}
        return Target(str(target.get("name")), str(target.get("source_hash")))

    def check_target(self, model: PackedModel) -> None:
        """Refuse to draft for another model than the one that this drafter was packed for.

        Raises:
            DrafterError: it is another.
        """
        check_target(self.drafter, model.shape, str(self.folder), str(model.folder))
        needed = target_of(model)
        if self.target.source_hash != needed.source_hash:
            raise DrafterError(
                f"{self.folder} drafts for {self.target.name} ({self.target.source_hash[:12]}), {model.folder} is "
                f"{needed.name} ({needed.source_hash[:12]})",
                hint="quantize the drafter again, with --target and the model that it was published for",
            )


def target_of(model: PackedModel) -> Target:
    """What a drafter for this model remembers of it: the same for all packings of one checkpoint."""
    return Target.of(model.provenance, model.fingerprint)
