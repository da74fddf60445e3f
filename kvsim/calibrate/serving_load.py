"""Serving points and logged turns as evidence: the load that they were measured under is simulated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, isinf
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..backends.engine_kernels import Served
from ..backends.kernels import OK
from ..backends.workload import Starts, closed_starts, poisson_starts
from ..errors import InputError
from ..simulation import status_of
from ..trajectory import Batch
from .deployment import Deployment
from .evidence import Loaded
from .robust import Array
from .work import Content, Work, decode, prefill

ROUNDS_OF_A_POINT = 10
"""A point without a number of requests is simulated with so many for each that runs at once, as benchmarks have it."""

LENGTH_SPREAD = 0.1
"""Unless a point says otherwise, lengths are drawn evenly from so far around their mean: simulated requests of equal
lengths would keep step with each other and meet at every prefill, which the jitter of a real server and of real lengths
prevents."""

FEWEST_REQUESTS, MOST_REQUESTS = 64, 4000

LONGEST_QUEUE_S = 60.0
"""So long are arrivals simulated where a rate is given without a number of requests."""


@dataclass(frozen=True, slots=True)
class Point:
    """Requests of such mean lengths, drawn evenly from ``spread`` (a fraction) around them, ``concurrency`` at once or
    ``request_rate`` a second (infinite: all at the start), and the means that were measured. ``cached_tokens`` are a
    prefix that all share."""

    place: str
    prompt_tokens: int
    output_tokens: int
    concurrency: int | None = None
    request_rate: float | None = None
    requests: int | None = None
    cached_tokens: int = 0
    spread: float = LENGTH_SPREAD
    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None

    @property
    def longest_tokens(self) -> int:
        """The least max_model_len that holds any request which may be drawn."""
        return sum(ceil(length * (1 + self.spread)) for length in (self.prompt_tokens, self.output_tokens)) + 1


class Means(NamedTuple):
    """Means over requests, in seconds: to the first token, between tokens, and to the last."""

    ttft_s: float
    tpot_s: float
    e2e_s: float

    @classmethod
    def of(cls, served: Served, batch: Batch) -> Means:
        """As a benchmark's client has them."""
        whole, first = served.finish_ns - served.release_ns, served.first_token_ns - served.release_ns
        gaps = (whole - first) / np.maximum(batch.output_tokens - 1, 1)
        return cls(*(float(np.mean(part)) / 1e9 for part in (first, gaps, whole)))


def served_means(point: Point, deployment: Deployment, values: Mapping[str, float]) -> Means:
    """What the clients of a point see on the simulated engine with these coefficients. Raises InputError as
    :func:`point_evidence`, and for a model that the engine cannot be simulated with."""
    batch, starts, _ = load_of(point, deployment)
    return Means.of(deployment.serve(batch, starts, values), batch)


def point_evidence(point: Point, deployment: Deployment) -> Loaded:
    """A serving point. Raises InputError where a request exceeds the longest context or the KV cache."""
    batch, starts, at_once = load_of(point, deployment)
    means = [(name, getattr(point, name)) for name in Means._fields]
    means = [(name, value) for name, value in means if value is not None]
    if len(means) == 3:
        means.pop()  # the other two say the same

    def seen(served: Served) -> Array:
        found = Means.of(served, batch)
        return np.array([getattr(found, name) for name, _ in means])

    most = deployment.engine.max_num_batched_tokens
    batch_size = max(1, min(at_once, deployment.engine.max_num_seqs))
    context = point.prompt_tokens + point.output_tokens / 2
    alone = prefill(point.prompt_tokens - point.cached_tokens, point.cached_tokens, most)
    others = [step._replace(times=batch_size / point.output_tokens) for step in alone]
    between = [decode(batch_size, context), *others]
    generated = [step._replace(times=step.times * (point.output_tokens - 1)) for step in between]
    steps: dict[str, list[Content]] = {"ttft_s": alone, "tpot_s": between, "e2e_s": [*alone, *generated]}
    return Loaded(
        kind=f"serving points, {deployment.architecture.name}",
        deployment=deployment,
        batch=batch,
        starts=starts,
        seen=seen,
        work=Work.of([steps[name] for name, _ in means], deployment.window()),
        measured=np.array([value for _, value in means], np.float64),
        groups=np.array([point.place] * len(means)),
        places=[f"{point.place}, {name}" for name, _ in means],
        client_tokens=np.array([-1.0 if name == "tpot_s" else point.prompt_tokens for name, _ in means]),
    )


def load_of(point: Point, deployment: Deployment) -> tuple[Batch, Starts, int]:
    """A point's requests, when they start, and how many of them run at once."""
    longest = deployment.engine.max_model_len
    if point.prompt_tokens + point.output_tokens > longest:
        raise InputError(
            f"{point.place}: {point.prompt_tokens} + {point.output_tokens} tokens exceed the longest context {longest}",
            remedy="Give the engine's own max_model_len",
            field="max_model_len",
        )
    count, starts, at_once = _starts(point)
    batch = _requests(
        count, point.prompt_tokens, point.output_tokens, min(point.cached_tokens, longest - 2), point.spread, longest
    )
    if (status_of(batch, deployment.engine) != OK).any():
        raise InputError(
            f"{point.place}: a request of {point.prompt_tokens} + {point.output_tokens} tokens exceeds the KV cache",
            remedy="Give the engine's own arguments, as kv_cache_dtype or num_gpu_blocks_override",
            field="num_gpu_blocks_override",
        )
    return batch, starts, at_once


def _starts(point: Point) -> tuple[int, Starts, int]:
    """How many requests there are, when they start, and how many of them run at once."""
    if point.concurrency is not None:
        wanted = point.requests or ROUNDS_OF_A_POINT * point.concurrency
        count = min(max(wanted, point.concurrency), max(MOST_REQUESTS, point.concurrency))
        return count, closed_starts(count, point.concurrency), point.concurrency
    rate = point.request_rate or 0.0
    if isinf(rate):
        count = min(point.requests or FEWEST_REQUESTS, MOST_REQUESTS)
        return count, closed_starts(count, count), count
    count = min(MOST_REQUESTS, point.requests or max(FEWEST_REQUESTS, round(rate * LONGEST_QUEUE_S)))
    return count, poisson_starts(count, rate, seed=0), 1


@lru_cache(maxsize=64)
def _requests(count: int, prompt: int, output: int, cached: int, spread: float, longest: int) -> Batch:
    random = np.random.default_rng(count)

    def lengths(mean: int, least: int) -> npt.NDArray[np.int64]:
        drawn = np.rint(mean * random.uniform(1 - spread, 1 + spread, count))
        return np.clip(drawn, least, None).astype(np.int64)

    zero, none = np.zeros(count, np.int64), np.full(count, -1, np.int64)
    prompts, outputs = lengths(prompt, cached + 1), lengths(output, 1)
    prompts = np.minimum(prompts, longest - 1)
    return Batch.from_columns(
        parent=none,
        kept_tokens=zero + cached,
        prefix=zero if cached else none,
        prompt_tokens=prompts,
        output_tokens=np.minimum(outputs, longest - prompts),
        pause_ns=zero,
        arrival_ns=zero,
        trajectory=np.arange(count),
    )


def turns_evidence(batch: Batch, deployment: Deployment, *, starts: Starts, name: str, kind: str) -> Loaded:
    """Turns with logged times to the first token or of whole requests; the others are served beside them.

    Raises InputError where no turn has a time.
    """
    nothing = np.full(batch.turns, -1, np.int64)
    ttft_ns = nothing if batch.ttft_ns is None else batch.ttft_ns
    e2e_ns = nothing if batch.e2e_ns is None else batch.e2e_ns
    rows = [
        (row, metric)
        for row in np.flatnonzero(status_of(batch, deployment.engine) == OK).tolist()
        for metric, column in enumerate((ttft_ns, e2e_ns))
        if column[row] > 0
    ]
    if not rows:
        raise InputError(
            "no turn with a logged time that fits the model",
            file=name,
            field="e2e_s",
            remedy="Give logs with api_time, ttft_s or e2e_s, and the model's own longest context",
        )
    turn, metric = (np.array(column) for column in zip(*rows, strict=True))

    def seen(served: Served) -> Array:
        ends = np.where(metric == 0, served.first_token_ns[turn], served.finish_ns[turn])
        return np.asarray((ends - served.release_ns[turn]) / 1e9)

    most = deployment.engine.max_num_batched_tokens

    def steps(row: int, whole: bool) -> list[Content]:
        prompt, output = int(batch.prompt_tokens[row]), max(1, int(batch.output_tokens[row]))
        cached = min(int(batch.kept_tokens[row]), prompt - 1)
        first = prefill(prompt - cached, cached, most)
        return [*first, decode(1, prompt + output / 2, output - 1)] if whole else first

    seconds = np.where(metric == 0, ttft_ns[turn], e2e_ns[turn]) / 1e9
    label = ["ttft", "e2e"]
    return Loaded(
        kind=kind,
        deployment=deployment,
        batch=batch,
        starts=starts,
        seen=seen,
        work=Work.of([steps(row, which == 1) for row, which in rows], deployment.window()),
        measured=seconds,
        groups=np.array([f"{name}/{batch.trajectory[row]}" for row in turn.tolist()]),
        places=[f"{name}, trajectory {batch.trajectory[row]}, turn row {row}, {label[which]}" for row, which in rows],
        client_tokens=batch.prompt_tokens[turn].astype(np.float64),
    )


def as_measured(batch: Batch) -> Batch:
    """The batch with every turn at the time it was really sent: a turn's logged length counts, not the simulated one.

    Turns behind one whose length was not logged come when the simulation says.
    """
    if batch.e2e_ns is None:
        return batch
    arrival, after = batch.arrival_ns.copy(), batch.after.copy()
    order: Sequence[int] = range(batch.turns) if batch.order is None else batch.order.tolist()
    known = np.zeros(batch.turns, bool)
    for row in order:
        before = int(after[row])
        waits = batch.waits_for is not None and len(batch.waits_for[row]) > 0
        if before < 0:
            known[row] = not waits
        elif known[before] and batch.e2e_ns[before] >= 0 and not waits:
            arrival[row] = arrival[before] + batch.e2e_ns[before] + batch.pause_ns[row]
            after[row] = -1
            known[row] = True
    columns = {name: getattr(batch, name) for name in ("parent", "kept_tokens", "prompt_tokens", "output_tokens")}
    optional = {name: getattr(batch, name) for name in ("prefix", "priority", "ttft_ns", "e2e_ns")}
    waits_for = None if batch.waits_for is None else [batch.waits_for[row] for row in range(batch.turns)]
    return Batch.from_columns(
        **columns,
        **{name: column for name, column in optional.items() if column is not None},
        pause_ns=np.where(after < 0, 0, batch.pause_ns),
        arrival_ns=arrival,
        trajectory=batch.trajectory,
        after=after,
        waits_for=waits_for,
    )
