"""ART: messages and times of a ``Trajectory``, after the rollout and before ``model.train``.

    for group in groups:
        for one, cost in zip(group.trajectories, term([messages(t) for t in group.trajectories],
                                                      tool_s=[tool_s(t) for t in group.trajectories])):
            one.reward -= WEIGHT * float(cost)

ART has no reward callback and no counts of prompts: the term counts tokens with its ``tokenizer``.
"""

from __future__ import annotations

from typing import Any

#: What ``Trajectory.track_duration(name)`` adds to the names of its metrics.
_SUFFIX = "_duration"


def messages(trajectory: Any) -> list[dict[str, Any]]:
    """The chat messages of ``messages_and_choices``, the model's choices as assistant messages."""
    found: list[dict[str, Any]] = []
    for one in trajectory.messages_and_choices:
        said = getattr(one, "message", None)
        found.append(dict(one) if said is None else said.model_dump(mode="json", exclude_none=True))
    return found


def tool_s(trajectory: Any) -> list[float | None]:
    """Seconds of tools after each turn that called any; None after the others.

    They were measured with ``track_duration``, which keeps a sum for each name: the sum over all names is shared
    equally. Without any, all are None.
    """
    total_s = [float(value) for name, value in trajectory.metrics.items() if name.endswith(_SUFFIX)]
    called = [bool(message.get("tool_calls")) for message in messages(trajectory) if message["role"] == "assistant"]
    if not total_s or not any(called):
        return [None] * len(called)
    return [sum(total_s) / sum(called) if calls else None for calls in called]
