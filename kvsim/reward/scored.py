"""Finished rollouts with the rewards that their files carry."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from kvsim.errors import InputError
from kvsim.logs import parquet, read
from kvsim.logs.source import Paths, Source, find

if TYPE_CHECKING:
    from kvsim.trajectory import Batch

#: Fields that hold the reward of a rollout, where none is named: the first that a record has. Dots lead into objects.
REWARD_FIELDS = (
    "reward",
    "score",
    "resolved",
    "report.resolved",
    "test_result.resolved",
    "test_result.report.resolved",
)

#: Fields that say which task a rollout is of: a name, or what was asked.
TASK_FIELDS = ("task_id", "instance_id", "input_prompt", "input", "prompt")

_TRIAL = re.compile(r"[-_.:#/](trial|run|attempt|sample)[-_]?\d+$")
"""How ids of several tries at one task end."""


@dataclass(frozen=True, eq=False)
class Scored:
    """The rollouts of one file: one trajectory of ``batch`` and one of ``rewards`` (rollouts,) for each record.

    ``tasks`` (rollouts,) says which of them tried the same.
    """

    file: str
    batch: Batch
    rewards: npt.NDArray[np.float64]
    tasks: list[str]


def read_scored(
    paths: Paths,
    field: str | None = None,
    *,
    format: str = "auto",
    tokenizer: str | os.PathLike[str] | None = None,
) -> list[Scored]:
    """Each file's rollouts with their rewards; ``paths``, ``format`` and ``tokenizer`` as in :func:`kvsim.read`.

    ``field`` names the number in each record (a line, an element, a row) that is its reward; by default ``reward`` or
    ``score``. Raises :class:`InputError` where a record has none, and where a file's records are no rollouts each.
    """
    return [_scored(path, field, format, tokenizer) for path in find(paths)]


def _scored(path: str, field: str | None, format: str, tokenizer: str | os.PathLike[str] | None) -> Scored:
    batch = read(path, format, tokenizer=tokenizer)
    records = list(_facts(path, field))
    rewards = np.array([reward for reward, _ in records])
    if len(rewards) != len(batch):
        raise InputError(
            f"{len(rewards)} records make {len(batch)} trajectories, so that no reward is anyone's",
            file=path,
            remedy="Give rollouts of a trainer: one record each",
        )
    tasks = [task or task_of(id) for (_, task), id in zip(records, batch.ids, strict=True)]
    return Scored(path, batch, rewards, tasks)


def task_of(id: str) -> str:
    """The task of a trajectory that nothing but its id tells of."""
    return _TRIAL.sub("", id)


def _facts(path: str, field: str | None) -> Iterator[tuple[float, str]]:
    """Reward and task of each record, the latter empty where it does not say."""
    for number, record in enumerate(_records(path)):
        yield _reward(record, field, path, number), _task(record)


def _task(record: dict[str, Any]) -> str:
    for name in TASK_FIELDS:
        value = record.get(name)
        if isinstance(value, (str, int)):
            return str(value)
        if isinstance(value, list):
            return msgspec.json.encode(value).decode()
    return ""


def _value(record: dict[str, Any], name: str) -> Any:
    """What a field holds, dots leading into objects."""
    found: Any = record
    for part in [name] if name in record else name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _records(path: str) -> Iterator[dict[str, Any]]:
    source = Source(path)
    if source.head.startswith(parquet.MAGIC):
        yield from parquet.rows(source)
        return
    for text in source.texts():
        if text.data.strip():
            record = msgspec.json.decode(text.data)
            yield record if isinstance(record, dict) else {}


def _reward(record: dict[str, Any], field: str | None, path: str, number: int) -> float:
    names: Iterable[str] = REWARD_FIELDS if field is None else (field,)
    for name in names:
        value = _value(record, name)
        if isinstance(value, (bool, int, float)) and np.isfinite(value):
            return float(value)
    having = ", ".join(name for name, value in record.items() if isinstance(value, (bool, int, float)))
    raise InputError(
        f"record {number} has no number called {' or '.join(names)}",
        file=path,
        field=field or "reward",
        remedy=f"Name the field that is the reward; numbers here are: {having or 'none'}",
    )
