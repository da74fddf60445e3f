"""What a change is: something that the agent, or those who serve it, could have done otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from kvsim.insight.what_if.rewriting import apply

if TYPE_CHECKING:
    from kvsim.insight.what_if.deployment import Deployment
    from kvsim.insight.what_if.edits import Edits
    from kvsim.trajectory import Batch


@dataclass(frozen=True)
class AgentChange:
    """A change of what trajectories hold; :meth:`apply` gives the batch as it would be.

    ``kind``: a word for it. ``name``: short text. ``trajectory``, ``turn`` (counted from 0 within the trajectory) and
    ``tool`` that it concerns, None where it concerns several or none. ``assumption``: what is taken for granted.
    """

    kind: ClassVar[str]

    name: str
    trajectory: str | None = None
    turn: int | None = None
    tool: str | None = None
    assumption: str | None = None

    def edits(self, batch: Batch) -> Edits:
        """The change as edits of one variant."""
        raise NotImplementedError

    def apply(self, batch: Batch) -> Batch:
        """The batch as it would be: valid, of as many trajectories; without segments, which no longer hold."""
        return apply(batch, self.edits(batch))


@dataclass(frozen=True)
class ServingChange:
    """A change of how trajectories are served; :meth:`deployed` gives the deployment as it would be."""

    kind: ClassVar[str]

    name: str
    assumption: str | None = None

    def deployed(self, now: Deployment) -> Deployment:
        """The deployment as it would be."""
        raise NotImplementedError
