"""A law of step times from step logs of an engine's sweeps: cold and cached prefills, decodes by batch and context.

A step lasts from its start to the next one's while work is left, so that the engine's own time between steps is in it;
before the engine idles, until its end and the usual gap. Times are wall clock, as a client would see them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise, zip_longest
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..law import Law, tabulate
from ..step_logs import LoggedStep, StepLog, without_suffix
from .robust import Array, Fit, Parameter, fit


class Steps(NamedTuple):
    """What steps did and how long they took, one value a step.

    A request with one token decodes, as attention kernels see it; others are chunks of prompts.
    """

    tokens: Array
    sequences: Array
    pairs: Array
    """(query, key) pairs of the chunks."""
    chunk_context: Array
    """Context read by the chunks, their own tokens included."""
    decoding: Array
    """Sequences that decode."""
    decode_context: Array
    """Context read by all of them."""
    seconds: Array
    probe: npt.NDArray[Any]
    """Number of the busy period: steps of one share the state of the machine."""

    @property
    def kind(self) -> npt.NDArray[Any]:
        """``prefill``, ``decode`` or ``mixed``."""
        chunks = self.sequences > self.decoding
        return np.where(chunks, np.where(self.decoding > 0, "mixed", "prefill"), "decode")


@dataclass(frozen=True, slots=True)
class StepCost:
    """Seconds of a step: each coefficient times what it is named after, summed."""

    step_s: float
    token_s: float
    sequence_s: float
    pair_s: float
    chunk_context_s: float
    decode_context_s: float
    """For each token of context of each decoding sequence."""
    decode_mean_context_s: float
    """For each token of the decoding sequences' mean context: what a batch of them shares."""

    def of(self, steps: Steps) -> Array:
        """Seconds of each step, shape (steps,)."""
        return _seconds(asdict(self), steps)

    def scaled(self, factor: float) -> StepCost:
        """Of a machine that takes ``factor`` times as long."""
        return StepCost(**{name: value * factor for name, value in asdict(self).items()})

    def law(self, *, tokens: int, sequences: int, max_model_len: int, held_tokens: int) -> Law:
        """As integer tables (:func:`kvsim.law.tabulate`)."""
        return tabulate(
            _Tables(self), tokens=tokens, sequences=sequences, max_model_len=max_model_len, held_tokens=held_tokens
        )


class _Tables:
    """A step's cost in the terms of the law's tables: full attention alone."""

    def __init__(self, cost: StepCost) -> None:
        self._cost = cost

    def step_s(self, tokens: Array) -> Array:
        return self._cost.step_s + self._cost.token_s * tokens

    def sequences_s(self, sequences: Array) -> Array:
        return self._cost.sequence_s * sequences

    def decode_s(self, group: str, sequences: Array) -> Array:
        each = self._cost.decode_context_s + self._cost.decode_mean_context_s / sequences
        return each if group == "full" else np.zeros(len(sequences))

    def mixed_s(self, group: str, sequences: Array) -> Array:
        return self.decode_s(group, sequences)

    def tile_keys(self) -> int:
        return 0

    def pair_s(self, group: str) -> float:
        return self._cost.pair_s if group == "full" else 0.0

    def context_s(self, group: str) -> float:
        return self._cost.chunk_context_s if group == "full" else 0.0

    def window(self) -> int:
        return 0


def steps_of(logged: Sequence[LoggedStep]) -> Steps:
    """The steps of a log with their durations; those without a time are left out."""
    steps = [step for step in logged if step.reqs]
    gap_s = usual_gap_s(steps)
    rows, probes, probe = [], [], 0
    for step, following in zip_longest(steps, steps[1:]):
        if work_left(step, following):
            rows.append([*_content(step), following.t0 - step.t0])
            probes.append(probe)
            continue
        if step.t3 is not None:
            rows.append([*_content(step), step.t3 + gap_s - step.t0])
            probes.append(probe)
        probe += 1
    columns = np.array(rows, np.float64).reshape(-1, 7).T
    return Steps._make([*columns, np.array(probes, np.int64)])


def usual_gap_s(steps: Sequence[LoggedStep]) -> float:
    """The median time from a step's end to the next one's start while work is left; 0 where none is known."""
    gaps = [after.t0 - step.t3 for step, after in pairwise(steps) if step.t3 is not None and work_left(step, after)]
    return float(np.median(gaps)) if gaps else 0.0


def work_left(step: LoggedStep, following: LoggedStep | None) -> bool:
    """Whether the engine went on at once: somebody waited, or runs on."""
    if following is None:
        return False
    return step.waiting > 0 or bool({work.request for work in step.reqs} & {work.request for work in following.reqs})


class Client(NamedTuple):
    """What a request's way takes outside of the engine's steps, both ways."""

    to_engine_s: float
    from_engine_s: float


class LoggedProbe(msgspec.Struct):
    """A single request of a sweep as its client saw it; ``t_submit`` is on the clock of the steps."""

    request_id: str
    t_submit: float
    ttft_s: float


def client_of(log: StepLog, probes: Iterable[LoggedProbe]) -> list[Client]:
    """The ways of those single requests that the log holds: from submission to the first step's start, and from the
    end of the step that brought the token."""
    gap_s = usual_gap_s(log.steps)
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    for step in log.steps:
        for work in step.reqs:
            name = without_suffix(work.request)
            first.setdefault(name, step.t0)
            if step.t3 is not None:
                last[name] = step.t3 + gap_s
    return [
        Client(first[probe.request_id] - probe.t_submit, probe.t_submit + probe.ttft_s - last[probe.request_id])
        for probe in probes
        if probe.request_id in last
    ]


def joined(parts: Iterable[Steps]) -> Steps:
    """Steps of several logs, their probes numbered on."""
    columns: list[list[Array]] = [[] for _ in Steps._fields]
    probes = 0
    for part in parts:
        for column, values in zip(columns, part._replace(probe=part.probe + probes), strict=True):
            column.append(values)
        probes += int(part.probe.max(initial=-1)) + 1
    return Steps(*map(np.concatenate, columns))


def fit_steps(steps: Steps) -> tuple[StepCost, Fit]:
    """The cost that predicts steps best, and how well it does.

    The values come from all steps; the held-out errors from fits without each fifth of the probes in turn.
    Raises :class:`InputError` where there is nothing to fit.
    """
    if len(set(steps.kind.tolist()) & {"prefill", "decode"}) < 2:
        raise InputError("the sweeps hold no prefill or no decode", remedy="Give logs of both")
    token_s = float((steps.seconds / steps.tokens).min())
    attention = Parameter(token_s / 1000, 0.0, token_s)
    parameters = {
        "step_s": Parameter(float(steps.seconds.min()), 0.0, float(steps.seconds.max())),
        "token_s": Parameter(token_s, 0.0, 10 * token_s),
        "sequence_s": Parameter(token_s, 0.0, 10 * token_s),
        "pair_s": attention,
        "chunk_context_s": attention,
        "decode_context_s": attention,
        "decode_mean_context_s": attention,
    }

    def model(values: Mapping[str, float], rows: npt.NDArray[np.intp]) -> Array:
        return _seconds(values, Steps(*(column[rows] for column in steps)))

    found = fit(model, steps.seconds, steps.probe, parameters, cross_validate=True)
    return StepCost(**{field.name: found.values[field.name] for field in fields(StepCost)}), found


def _seconds(values: Mapping[str, float], steps: Steps) -> Array:
    mean_context = steps.decode_context / np.maximum(steps.decoding, 1)
    return np.asarray(
        values["step_s"]
        + values["token_s"] * steps.tokens
        + values["sequence_s"] * steps.sequences
        + values["pair_s"] * steps.pairs
        + values["chunk_context_s"] * steps.chunk_context
        + values["decode_context_s"] * steps.decode_context
        + values["decode_mean_context_s"] * mean_context
    )


def _content(step: LoggedStep) -> list[int]:
    chunks = [work for work in step.reqs if work.tokens > 1]
    decodes = [work for work in step.reqs if work.tokens == 1]
    return [
        sum(work.tokens for work in step.reqs),
        len(step.reqs),
        sum(work.tokens * work.before + work.tokens * (work.tokens + 1) // 2 for work in chunks),
        sum(work.before + work.tokens for work in chunks),
        len(decodes),
        sum(work.before + 1 for work in decodes),
    ]
