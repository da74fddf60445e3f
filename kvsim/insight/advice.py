"""``explain``: the most valuable changes of a run, each priced again, with what it saves and how sure that is."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import zip_longest
from math import isnan
from typing import TYPE_CHECKING

import numpy as np

from kvsim.engine import EngineConfig
from kvsim.errors import DoesNotFitError, InputError
from kvsim.estimation import Estimate
from kvsim.insight.independence import independent_chains
from kvsim.insight.patterns import PatternFound, find_patterns
from kvsim.insight.patterns.repeats import Repeats
from kvsim.insight.patterns.unused import Unused
from kvsim.insight.saving import Saving, adds_nothing, ranked, saving_of
from kvsim.insight.tool_costs import ResponseCost, by_tool
from kvsim.insight.what_if.candidates import TRUNCATE_TO, Candidates, Finder, Wishes
from kvsim.insight.what_if.change import AgentChange, ServingChange
from kvsim.insight.what_if.compact import SUMMARY_TOKENS
from kvsim.insight.what_if.deployment import Deployment, KeepCache, OnGpu, WithEngine, WithModel, WithPolicy
from kvsim.insight.what_if.edits import Edits
from kvsim.insight.what_if.expected import Expected
from kvsim.insight.what_if.merge import Links
from kvsim.insight.what_if.savings import UNITS, Ends, Priced, savings, savings_of_batch, savings_of_deployment
from kvsim.load import Load
from kvsim.simulation import how_of

if TYPE_CHECKING:
    from pathlib import Path

    from kvsim.architecture import Architecture
    from kvsim.calibration import Calibration
    from kvsim.hardware import Gpu
    from kvsim.insight.attribution import Attribution
    from kvsim.insight.transcript import Transcripts
    from kvsim.simulated import Simulation
    from kvsim.trajectory import Batch

BY = ("model_s", "latency_s")

#: Candidates of one kind are priced so many at a time, until those left should save less than those found did.
_AT_ONCE = 32
#: By how much more than expected a change is taken to save at most.
_MARGIN = 1.5
#: So many of a kind are priced at most: where all are worth about the same, which ten are best matters little.
_MOST_PRICED = 2048
#: Runs of a simulation that the changes of a simulated deployment may take: three a change.
_SIMULATED_CHANGES = 12


class Advice:
    """What was found: the run as it is, and changes by falling saving."""

    def __init__(
        self,
        base: Priced,
        alone: Priced,
        by: str,
        agent: list[Saving],
        serving: list[Saving],
        patterns: list[PatternFound],
        notes: list[str],
    ) -> None:
        self.result: Estimate | Simulation = base.result
        """The run as it is."""
        self.by = by
        self._alone = alone
        self.agent = agent
        """Changes of what the agent does, by falling saving."""
        self.serving = serving
        """Changes of how it is served, by falling saving."""
        self.patterns = patterns
        """Inefficiency patterns; without transcripts those that counts reveal."""
        self.notes = notes
        """What was not looked into, and why."""
        self.totals = base.totals
        """What the run takes, with the ends of its 90 % interval."""

    @property
    def batch(self) -> Batch:
        """What was priced."""
        return self.result.batch

    @property
    def changes(self) -> list[Saving]:
        """All changes by falling saving."""
        return sorted([*self.agent, *self.serving], key=lambda saving: -saving.saved_s)

    def top(self, count: int = 10) -> list[Saving]:
        """The most valuable distinct changes of what the agent does.

        Those are left out that one above them takes in (a call of a tool all of whose calls are changed alike), or of
        which one above them is all that saves anything; of several ways to do the same (thresholds of compaction) the
        best is shown.
        """
        shown: list[Saving] = []
        for saving in self.agent:
            if len(shown) == count:
                break
            if not any(adds_nothing(saving, other) for other in shown):
                shown.append(saving)
        return shown

    @cached_property
    def tools(self) -> list[ResponseCost]:
        """What the responses of the heaviest tools cost over the rest of the run, each trajectory estimated alone."""
        return by_tool(self._alone)

    @cached_property
    def attribution(self) -> Attribution:
        """Where the time of the run as it is went."""
        from kvsim.insight.attribution import attribute

        return attribute(self.result)


def explain(
    batch: Batch,
    *,
    model: str | Architecture,
    gpu: str | Gpu,
    load: Load | None = None,
    engine: EngineConfig | None = None,
    calibration: str | Path | Calibration | None = None,
    usd_per_hour: float | None = None,
    backend: str = "auto",
    arrivals: str | None = None,
    retention: str = "lru",
    replicas: int = 1,
    router: str = "round-robin",
    speedup: float = 1.0,
    stagger_s: float = 0.0,
    seed: int = 0,
    by: str = "model_s",
    top: int = 10,
    truncate_to: int = TRUNCATE_TO,
    summary_tokens: int = SUMMARY_TOKENS,
    tools_share: float = 0.5,
    parallel: Iterable[str] = (),
    transcripts: Transcripts | None = None,
    gpus: Sequence[str] = (),
    models: Sequence[str] = (),
) -> Advice:
    """Find the changes that would save most, each priced again as :func:`kvsim.estimate` prices the batch.

    ``arrivals`` (with ``retention``, ``replicas``, ``router``, ``speedup``, ``stagger_s``, ``seed``): the engines are
    shared, as :func:`kvsim.simulate` has it; the changes that save most by an estimate are then simulated.
    by: ``"model_s"``, time in the model, or ``"latency_s"``, end to end with tool pauses.
    top: how many changes must be exact: no change of a kind that was not priced should save more than those.
    truncate_to: tokens that truncated tool responses keep. summary_tokens: what a compacted context comes to beside its
    head. tools_share: of the tokens of tool definitions, how much goes.
    parallel: names of tools whose neighbouring calls do not need each other's results, and might be made at once.
    transcripts: what was said (:meth:`kvsim.insight.Transcripts.read`), for patterns, and to find calls that need not
        wait for each other, repeat what was known, or bring what nothing refers to.
    gpus, models: others to price the same turns on.
    Raises :class:`~kvsim.errors.KvsimError` as estimate and simulate do.
    """
    _require(by, truncate_to, summary_tokens, tools_share)
    how = None
    if arrivals is not None:
        how = how_of(arrivals, retention, replicas, router, speedup, stagger_s, seed, backend)
    deployment = Deployment(
        model, gpu, engine or EngineConfig(), load or Load(), calibration, usd_per_hour, backend, how
    )
    alone = Priced(batch, deployment.changed(how=None))
    base = alone if how is None else Priced(batch, deployment)
    patterns = find_patterns(alone.result, transcripts) if isinstance(alone.result, Estimate) else []
    wishes = Wishes(
        truncate_to,
        summary_tokens,
        tools_share,
        frozenset(parallel),
        tuple(independent_chains(transcripts)) if transcripts is not None else (),
        _reading_rows(patterns, Repeats.name, batch, transcripts),
        _reading_rows(patterns, Unused.name, batch, transcripts),
    )
    notes: list[str] = []
    found = _agent(alone, wishes, by, top)
    if how is not None:  # how much of a context survives is up to the others: from all to nothing
        lost = Priced(batch, deployment.changed(how=None, load=Load(kv="always")))
        found = _by_turns(found, _agent(lost, wishes, by, top), by)
    agent = [saving_of(change, scope, ends, base, by) for change, scope, ends in found]
    if how is not None:
        agent = _simulated(base, found, by, top, notes)
    serving = [saving_of(change, "serving", ends, base, by) for change, ends in _serving(base, gpus, models, notes)]
    return Advice(base, alone, by, ranked(agent), ranked(serving), patterns, notes)


def _reading_rows(
    patterns: Sequence[PatternFound], name: str, batch: Batch, transcripts: Transcripts | None
) -> tuple[int, ...]:
    """The turns that read responses on which a pattern fired; of repeated calls where the turn made no others."""
    found = next((pattern for pattern in patterns if pattern.name == name), None)
    if found is None or transcripts is None:
        return ()
    if name != Repeats.name:
        return tuple(sorted({finding.row for finding in found.findings}))
    made = Counter(call.message.row for transcript in transcripts.by_trajectory.values() for call in transcript.calls)
    fired = Counter(finding.row for finding in found.findings)
    only = np.zeros(batch.turns, bool)
    only[[row for row, count in fired.items() if count == made[row]]] = True
    simple = Links(batch).simple
    return tuple(np.flatnonzero(simple & only[batch.parent]).tolist())


def _agent(base: Priced, wishes: Wishes, by: str, top: int) -> list[tuple[AgentChange, str, dict[str, Ends]]]:
    """The changes of what the agent does that may be among the ``top`` of their kind, priced."""
    result = base.result
    if not isinstance(result, Estimate) or not base.batch.turns:
        return []
    expected = Expected.of(result, base.families)
    finder = Finder(base.batch, base.families, expected, wishes, pauses=by == "latency_s")
    found = []
    for candidates in finder.all():
        found += _priced(base, candidates, by, top)
    return found


def _by_turns(
    one: list[tuple[AgentChange, str, dict[str, Ends]]], other: list[tuple[AgentChange, str, dict[str, Ends]]], by: str
) -> list[tuple[AgentChange, str, dict[str, Ends]]]:
    """The best of both by turns, each change once."""
    ranked = [sorted(found, key=lambda entry: -entry[2][by].value) for found in (one, other)]
    mixed: dict[AgentChange, tuple[AgentChange, str, dict[str, Ends]]] = {}
    for pair in zip_longest(*ranked):
        for entry in pair:
            if entry is not None:
                mixed.setdefault(entry[0], entry)
    return list(mixed.values())


def _priced(base: Priced, candidates: Candidates, by: str, top: int) -> list[tuple[AgentChange, str, dict[str, Ends]]]:
    """Candidates priced in the order of what they should save, until the rest can hardly reach the ``top``."""
    order = candidates.best_first()[:_MOST_PRICED].tolist()
    found: list[tuple[AgentChange, str, dict[str, Ends]]] = []
    best: list[float] = []
    for begin in range(0, len(order), _AT_ONCE):
        numbers = order[begin : begin + _AT_ONCE]
        if len(best) == top and _MARGIN * candidates.expected_s[numbers[0]] < best[0]:
            break
        changes = [candidates.make(number) for number in numbers]
        saved = savings(base, Edits.together([change.edits(base.batch) for change in changes]))
        for variant, change in enumerate(changes):
            ends = {unit: saved.ends(unit, variant) for unit in saved.by_unit}
            found.append((change, candidates.scope, ends))
            worth = ends[by].value
            if not isnan(worth):
                heapq.heappush(best, worth)
                if len(best) > top:
                    heapq.heappop(best)
    return found


def _simulated(
    base: Priced, found: list[tuple[AgentChange, str, dict[str, Ends]]], by: str, top: int, notes: list[str]
) -> list[Saving]:
    """The first distinct changes of those found, simulated on the shared engines."""
    most = max(top, _SIMULATED_CHANGES)
    kept: list[Saving] = []
    for change, scope, ends in found:
        estimated = saving_of(change, scope, ends, base, by)
        if not any(adds_nothing(estimated, other) for other in kept):
            kept.append(estimated)
        if len(kept) == most:
            break
    if len(found) > len(kept):
        notes.append(f"{len(kept)} changes of what the agent does were simulated, those that save most by estimates")
    simulated = []
    for saving in kept:
        assert isinstance(saving.change, AgentChange)
        saved = savings_of_batch(base, saving.change.apply(base.batch))
        ends = {unit: saved.ends(unit) for unit in saved.by_unit}
        simulated.append(saving_of(saving.change, saving.scope, ends, base, by))
    return simulated


def _serving(
    base: Priced, gpus: Sequence[str], models: Sequence[str], notes: list[str]
) -> Iterable[tuple[ServingChange, dict[str, Ends]]]:
    now = base.deployment
    for change in _offers(now, gpus, models):
        try:
            other = Priced(base.batch, change.deployed(now))
            ends = savings_of_deployment(base, other)
        except DoesNotFitError:
            notes.append(f"{change.name}: the model does not fit")
            continue
        except InputError as error:
            notes.append(f"{change.name}: {error}")
            continue
        if isnan(ends["model_s"].value):
            notes.append(f"{change.name}: not all turns fit there that fit now")
            continue
        if any(ends[unit].value for unit in UNITS if not isnan(ends[unit].value)):
            yield change, ends


def _offers(now: Deployment, gpus: Sequence[str], models: Sequence[str]) -> Iterable[ServingChange]:
    """Changes of the deployment that can be asked about."""
    if now.how is None and now.load.kv != "never":
        yield KeepCache("keep contexts in the cache through pauses")
    if now.how is not None:
        for name in ("ttl:60", "continuum", "min-waste", "next-use", "offload:64@25"):
            yield WithPolicy(f"retention {name}", retention=name)
    engine = now.pricing.engine
    if "fp8" not in engine.kv_cache_dtype:
        yield WithEngine("fp8 KV cache", "answers may differ", (("kv_cache_dtype", "fp8"),))
    if engine.weights is None and now.engine.quantization is None:
        yield WithEngine("fp8 weights", "answers may differ", (("quantization", "fp8"),))
    ranks = 2 * engine.tensor_parallel_size
    if ranks <= 8:
        yield WithEngine(f"tensor_parallel_size {ranks}", None, (("tensor_parallel_size", ranks),))
    for gpu in gpus:
        yield OnGpu(f"on {gpu}", gpu=gpu)
    for model in models:
        yield WithModel(f"with {model}", "answers differ; the same tokens are priced", model=model)


def _require(by: str, truncate_to: int, summary_tokens: int, tools_share: float) -> None:
    """Refuse wishes that mean nothing."""
    if by not in BY:
        raise InputError(f"{by!r} is nothing to rank by", field="by", remedy="Use " + " or ".join(BY))
    for name, value in (("truncate_to", truncate_to), ("summary_tokens", summary_tokens)):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1 << 30:
            raise InputError(f"{value!r} is no number of tokens", field=name, remedy="Give a whole number from 0")
    if not 0 < tools_share < 1:
        raise InputError(f"{tools_share!r} is no share", field="tools_share", remedy="Give a number between 0 and 1")
