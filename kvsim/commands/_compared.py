"""The runs that ``kvsim compare`` is asked for: whose logs, priced with what, with which scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os.path import basename, normpath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kvsim.commands._inputs import read_logs
from kvsim.commands._scores import Label, read_scores
from kvsim.errors import InputError
from kvsim.insight.comparison import Run
from kvsim.insight.resampling import Floats
from kvsim.logs.source import find
from kvsim.reward import CostTerm
from kvsim.reward.scored import Scored, read_scored, task_of

if TYPE_CHECKING:
    from kvsim.trajectory import Batch


class Setting(NamedTuple):
    """Logs, and what they are priced with."""

    path: str
    model: str
    gpu: str


@dataclass(frozen=True)
class Compared:
    """Runs with what was taken for granted in pricing them, and how often."""

    runs: list[Run]
    settings: list[Setting]
    assumptions: Counter[str]


def settings_of(paths: Sequence[str], models: Sequence[str], gpus: Sequence[str]) -> list[Setting]:
    """One a run: as many as the longest list; the others give one for each or one for all."""
    count = max(map(len, (paths, models, gpus)))
    columns = []
    for name, values in (("runs", paths), ("model", models), ("gpu", gpus)):
        if len(values) not in (1, count):
            problem = f"{len(values)} given for {count} runs"
            raise InputError(problem, field=name, remedy="Give one for all, or one for each")
        columns.append(list(values) * (count // len(values)))
    found = [Setting(*values) for values in zip(*columns, strict=True)]
    if len(set(found)) < len(found):
        raise InputError("two runs are the same logs, priced alike", field="runs", remedy="Leave one out")
    if count < 2:
        raise InputError("one run has nothing beside it", field="runs", remedy="Give two, or two models, or two GPUs")
    return found


def names_of(settings: Sequence[Setting]) -> list[str]:
    """What tells the runs apart, as short as that can be said."""
    parts = []
    for column, shorter in zip(zip(*settings, strict=True), _SHORTER, strict=True):
        if len(set(column)) > 1:
            tried = ([short(value) for value in column] for short in shorter)
            parts.append(next((names for names in tried if len(set(names)) == len(set(column))), list(column)))
    return [", ".join(values) for values in zip(*parts, strict=True)]


def compared(
    settings: Sequence[Setting],
    scores: Sequence[str],
    field: str | None,
    correct_above: float | None,
    *,
    format: str,
    tokenizer: str | None,
    **pricing: object,
) -> Compared:
    """The runs of the settings. Each log is read once."""
    labels = [read_scores(path) for path in scores]
    paths = list(dict.fromkeys(setting.path for setting in settings))
    if labels and len(labels) not in (1, len(paths)):
        raise InputError(
            f"{len(labels)} files of scores for {len(paths)} logs",
            field="scores",
            remedy="Give one for all, or one for each",
        )
    terms = {
        (model, gpu): CostTerm(model, gpu, **pricing)  # type: ignore[arg-type]
        for model, gpu in dict.fromkeys((setting.model, setting.gpu) for setting in settings)
    }
    read: dict[str, list[tuple[Batch, Floats, list[str]]]] = {}
    for number, path in enumerate(paths):
        if labels:
            batch = read_logs([path], format=format, lenient=False, tokenizer=tokenizer)
            read[path] = [(batch, *_labelled(batch, labels[number % len(labels)], scores[number % len(labels)]))]
        else:
            files = _scored(path, field, format=format, tokenizer=tokenizer)
            read[path] = [(one.batch, one.rewards, one.tasks) for one in files]
    assumptions: Counter[str] = Counter()
    runs = []
    for setting, name in zip(settings, names_of(settings), strict=True):
        costs, success, tasks = [], [], []
        for batch, rewards, its in read[setting.path]:
            if not len(batch):
                continue
            priced = terms[setting.model, setting.gpu].price(batch)
            costs.append(priced.trajectories)
            success.append(rewards if correct_above is None else (rewards > correct_above).astype(float))
            tasks += its
            assumptions.update(priced.assumptions)
        if not costs:
            raise InputError("holds no rollout", file=setting.path, remedy="Leave it out")
        runs.append(Run.of(name, np.concatenate(costs), np.concatenate(success), tasks, source=setting.path))
    return Compared(runs, list(settings), assumptions)


def _scored(path: str, field: str | None, *, format: str, tokenizer: str | None) -> list[Scored]:
    """The log's files with the rewards in them; where it has none, the error tells of ``--scores`` too."""
    try:
        return read_scored(find([path]), field, format=format, tokenizer=tokenizer)
    except InputError as error:
        if error.field != (field or "reward") or error.line is not None:
            raise
        remedy = f"{error.remedy}; or give them apart, with --scores"
        raise InputError(error.problem, file=error.file, field=error.field, remedy=remedy) from None


def _labelled(batch: Batch, labels: dict[str, Label], path: str) -> tuple[Floats, list[str]]:
    """Score and task of each trajectory."""
    missing = [id for id in batch.ids if id not in labels]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(batch)} trajectories have no score, the first is {missing[0]!r}",
            file=path,
            field="id",
            remedy="Give every trajectory one, by the ids that 'kvsim estimate --json' lists",
        )
    found = [labels[id] for id in batch.ids]
    return np.array([label.score for label in found]), [
        label.task or task_of(id) for label, id in zip(found, batch.ids, strict=True)
    ]


def _file_name(path: str) -> str:
    return basename(normpath(path))


def _stem(path: str) -> str:
    return _file_name(path).split(".", 1)[0] or _file_name(path)


def _model_name(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]


_SHORTER: tuple[tuple[Callable[[str], str], ...], ...] = ((_stem, _file_name), (_model_name,), ())
"""Of path, model and GPU: the names to try, the shortest first."""
