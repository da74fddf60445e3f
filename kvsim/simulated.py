"""What a simulation gives: columns of turns, values of trajectories, totals of replicas, a timeline."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from kvsim._timeline import timeline_table
from kvsim.backends.engine_kernels import REPLICA_TOTALS, Fleet, Served, Timeline
from kvsim.backends.eviction_log import EvictionLog, Evictions
from kvsim.backends.kernels import OK
from kvsim.errors import InputError
from kvsim.kv_groups import cached_blocks
from kvsim.result import STATUSES, Costed, Table, seconds
from kvsim.uncertainty import Interval, Uncertainty, largest

if TYPE_CHECKING:
    from kvsim.backends.interface import Ints
    from kvsim.pricing import Pricing
    from kvsim.retention import Policy
    from kvsim.trajectory import Batch

Floats = npt.NDArray[np.float64]


class ReplicaRun(NamedTuple):
    """What a replica did in all. Block counts are of one rank; ``hit_rate`` is cached over prompt tokens."""

    steps: int
    busy_s: float
    end_s: float
    evicted_blocks: int
    preemptions: int
    peak_blocks: int
    usable_blocks: int
    hit_rate: float

    @classmethod
    def of(cls, totals: dict[str, int], hit_rate: float, usable_blocks: int) -> ReplicaRun:
        """From the kernel's totals by name."""
        return cls(
            steps=totals["steps"],
            busy_s=totals["busy_ns"] / 1e9,
            end_s=totals["end_ns"] / 1e9,
            evicted_blocks=totals["evicted_blocks"],
            preemptions=totals["preemptions"],
            peak_blocks=totals["peak_blocks"],
            usable_blocks=usable_blocks,
            hit_rate=hit_rate,
        )


class How(NamedTuple):
    """What a simulation was asked for beside batch and pricing, as :func:`kvsim.simulate` has it."""

    arrivals: str
    retention: Policy
    fleet: Fleet
    speedup: float
    stagger_s: float
    seed: int
    backend: str
    usd_per_hour: float | None


class Simulation(Costed):
    """What became of a batch on an engine: one value a trajectory here, one a turn in :attr:`turns`.

    Trajectories with a turn that was not served (see ``turns["status"]``) are NaN.
    """

    def __init__(
        self,
        batch: Batch,
        pricing: Pricing,
        how: How,
        status: npt.NDArray[np.int8],
        served: Served,
        totals: Ints,
        timeline: Timeline,
        log: EvictionLog | None = None,
    ) -> None:
        self.batch = batch
        self.pricing = pricing
        self.backend = how.backend
        self._how = how
        self.served = served
        """Whole nanoseconds and tokens, one value a turn."""
        self._status = status
        self._totals = totals
        self._timeline = timeline
        self._log = log
        self._usd_per_hour = how.usd_per_hour

    @property
    def served_whole(self) -> npt.NDArray[np.bool_]:
        """Whether all turns of the trajectory were served, shape (trajectories,)."""
        return ~self._refused_trajectories

    @property
    def ok(self) -> npt.NDArray[np.bool_]:
        """Whether the turn was served, shape (rows,)."""
        served: npt.NDArray[np.bool_] = self._status == OK
        return served

    @property
    def latency_s(self) -> Floats:
        """Last finish minus first arrival, tool pauses included (over the DAG of turns)."""
        first = np.full(len(self.batch), np.iinfo(np.int64).max)
        last = np.zeros(len(self.batch), np.int64)
        np.minimum.at(first, self.batch.trajectory, self.served.release_ns)
        np.maximum.at(last, self.batch.trajectory, self.served.finish_ns)
        return seconds(last - first, self._refused_trajectories)

    @property
    def model_s(self) -> Floats:
        """Time in the engine, queueing included: the sum of the turns' ``e2e_s``."""
        return self._sum(self.served.finish_ns - self.served.release_ns)

    @property
    def queue_s(self) -> Floats:
        """Time before the first step."""
        return self._sum(self.served.scheduled_ns - self.served.release_ns)

    @property
    def fresh_prefill_s(self) -> Floats:
        """Prefill of tokens that were never in the cache."""
        return self._sum(self._prefill_ns - self.served.recompute_ns)

    @property
    def recompute_s(self) -> Floats:
        """Prefill of tokens that had been in the cache and were evicted."""
        return self._sum(self.served.recompute_ns)

    @property
    def decode_s(self) -> Floats:
        """From the first token to the last, with what preemption cost in between."""
        return self._sum(self.served.finish_ns - self.served.first_token_ns)

    @property
    def gpu_s(self) -> Floats:
        """GPU-seconds: each step's time shared by tokens among its requests, x tensor_parallel_size."""
        return self._sum(self.served.gpu_ns) * self.pricing.engine.tensor_parallel_size

    @property
    def kv_byte_s(self) -> Floats:
        """KV-cache bytes held (all ranks) x seconds, with the pauses through which they stayed in the cache.

        What requests hold at the same time counts for each of them, and so does a context that several extend.
        """
        return self._sum(self._held_block_ns) * self.pricing.pool_block_bytes

    @property
    def cached_tokens(self) -> Ints:
        """Prompt tokens found in the cache, host tier included, at each turn's first admission."""
        return self._sum_tokens(self.served.cached_tokens)

    @property
    def loaded_tokens(self) -> Ints:
        """Of the cached tokens those that were loaded from the host tier."""
        return self._sum_tokens(self.served.loaded_tokens)

    @property
    def recomputed_tokens(self) -> Ints:
        """Prompt tokens that had been in the cache and were evicted."""
        return self._sum_tokens(self._recomputed_tokens)

    @cached_property
    def turns(self) -> Table:
        """One value a turn, rows as in the batch. Columns:

        ``ttft_s e2e_s queue_s fresh_prefill_s recompute_s decode_s pause_s release_s finish_s gpu_s kv_byte_s`` (NaN
        where not served), ``cached_tokens loaded_tokens recomputed_tokens preemptions replica`` (integers, -1 where not
        served) and ``status`` (text: ``ok``, ``over_max`` beyond max_model_len, ``over_capacity`` beyond the KV cache).
        ``loaded_tokens`` are those of the cached ones that came from the host tier; waiting for them is queueing.
        ``e2e_s`` is queue + fresh prefill + recompute + decode. ``release_s`` and ``finish_s`` count from the
        simulation's start; ``pause_s`` precedes the turn.
        """
        served = self.served
        refused = self._status != OK
        unknown = refused if refused.any() else None
        ranks = self.pricing.engine.tensor_parallel_size
        return Table(
            self.batch.turns,
            {
                "ttft_s": lambda: seconds(served.first_token_ns - served.release_ns, unknown),
                "e2e_s": lambda: seconds(served.finish_ns - served.release_ns, unknown),
                "queue_s": lambda: seconds(served.scheduled_ns - served.release_ns, unknown),
                "fresh_prefill_s": lambda: seconds(self._prefill_ns - served.recompute_ns, unknown),
                "recompute_s": lambda: seconds(served.recompute_ns, unknown),
                "decode_s": lambda: seconds(served.finish_ns - served.first_token_ns, unknown),
                "pause_s": lambda: seconds(self.batch.pause_ns, None),
                "release_s": lambda: seconds(served.release_ns, unknown),
                "finish_s": lambda: seconds(served.finish_ns, unknown),
                "gpu_s": lambda: seconds(served.gpu_ns * ranks, unknown),
                "kv_byte_s": lambda: seconds(self._held_block_ns * float(self.pricing.pool_block_bytes), unknown),
                "cached_tokens": lambda: served.cached_tokens,
                "loaded_tokens": lambda: served.loaded_tokens,
                "recomputed_tokens": lambda: self._recomputed_tokens,
                "preemptions": lambda: served.preemptions,
                "replica": lambda: served.replica,
                "status": lambda: np.array(STATUSES)[self._status],
            },
        )

    @cached_property
    def uncertainty(self) -> Uncertainty:
        """How far its times may be off, and what of the run lies beyond the evidence."""
        return self.pricing.uncertainty(**self.extremes)

    @cached_property
    def extremes(self) -> dict[str, int]:
        """The largest prefill, the most sequences in a step and the longest context that were served; 0 for none."""
        batch, served = self.batch, self._status == OK
        return {
            "prefilled_tokens": largest((batch.prompt_tokens - self.served.cached_tokens)[served]),
            "sequences": min(self.peak_sequences, self.pricing.engine.max_num_seqs),
            "context_tokens": largest((batch.prompt_tokens + batch.output_tokens)[served]),
        }

    @cached_property
    def interval(self) -> Interval[Simulation]:
        """The 90 % interval of every value: the run simulated again with shorter and with longer steps."""
        from kvsim.simulation import run

        sure = self.uncertainty
        low, high = (
            run(self.batch, self.pricing.scaled(*factors), self._how)
            for factors in ((sure.prefill.low, sure.decode.low), (sure.prefill.high, sure.decode.high))
        )
        return Interval(low, high, self, sure)

    @cached_property
    def peak_sequences(self) -> int:
        """The most turns that a replica had at once between their first step and their end."""
        most = 0
        for replica in range(len(self.replicas)):
            its = self.turns.replica == replica  # -1 where not served
            begun, ended = (np.sort(column[its]) for column in (self.served.scheduled_ns, self.served.finish_ns))
            at_once = np.arange(1, len(begun) + 1) - np.searchsorted(ended, begun, "right")
            most = max(most, int(at_once.max(initial=0)))
        return most

    @cached_property
    def replicas(self) -> list[ReplicaRun]:
        """Totals of each replica."""
        usable_blocks = self.pricing.engine.num_gpu_blocks - 1
        return [
            ReplicaRun.of(dict(zip(REPLICA_TOTALS, totals, strict=True)), self._hit_rate(replica), usable_blocks)
            for replica, totals in enumerate(self._totals.tolist())
        ]

    @cached_property
    def engine(self) -> ReplicaRun:
        """Totals of all replicas: sums, the last end, the highest peak."""
        sums, most = self._totals.sum(axis=0), self._totals.max(axis=0)
        totals = {
            name: int(most[at] if name in ("end_ns", "peak_blocks") else sums[at])
            for at, name in enumerate(REPLICA_TOTALS)
        }
        return ReplicaRun.of(totals, self._hit_rate(), self.pricing.engine.num_gpu_blocks - 1)

    @property
    def bin_ns(self) -> int:
        """The length of the bins of :attr:`timeline`; 0: there is none."""
        return int(self._timeline.bin_ns)

    @cached_property
    def timeline(self) -> Table:
        """What the engines did over time, one value a bin and replica, if ``timeline_s`` was given. Columns:

        ``replica``, ``time_s`` (start of the bin), ``kv_use`` (share of blocks in use), ``running`` and ``waiting``
        (mean numbers of requests: between first scheduled and finish, and before), ``hit_rate`` (cached over prompt
        tokens of the turns first scheduled in the bin, NaN where there are none).
        Raises InputError without ``timeline_s``.
        """
        if not self.bin_ns:
            raise InputError("the run has no timeline", field="timeline_s", remedy="Give simulate timeline_s=1.0")
        usable_blocks = self.pricing.engine.num_gpu_blocks - 1
        return timeline_table(self._timeline, self.served, self.batch.prompt_tokens, self._status == OK, usable_blocks)

    @property
    def keeps_evictions(self) -> bool:
        """Whether evictions were written down."""
        return self._log is not None

    @property
    def evictions(self) -> Evictions:
        """Which row's allocation took which blocks of which context, and when, if ``evictions`` was asked for.

        Raises InputError without.
        """
        if self._log is None:
            raise InputError(
                "the run has no log of evictions", field="evictions", remedy="Give simulate evictions=True"
            )
        return self._log.evictions

    @cached_property
    def status_counts(self) -> dict[str, int]:
        """How many turns have each status, those with none left out."""
        counts = np.bincount(self._status, minlength=len(STATUSES))
        return {name: int(count) for name, count in zip(STATUSES, counts, strict=True) if count}

    def require_served(self) -> None:
        """Raise :class:`InputError` naming the first turn that was not served, if there is one."""
        refused = np.flatnonzero(self._status != OK)
        if not refused.size:
            return
        row = int(refused[0])
        tokens = int(self.batch.prompt_tokens[row] + self.batch.output_tokens[row])
        raise InputError(
            f"a turn of trajectory {self.batch.ids[self.batch.trajectory[row]]!r} (row {row}) has {tokens} tokens, "
            f"{STATUSES[self._status[row]].replace('_', ' ')}; so have {refused.size} turns",
            field="prompt_tokens",
            remedy="Choose a longer max_model_len, a model or GPU with more room, or leave out strict",
        )

    def _hit_rate(self, replica: int | None = None) -> float:
        its = self._status == OK
        if replica is not None:
            its &= self.served.replica == replica
        prompt = int(self.batch.prompt_tokens[its].sum())
        return int(self.served.cached_tokens[its].sum()) / prompt if prompt else 0.0

    @cached_property
    def _held_block_ns(self) -> Ints:
        """While the turn ran, and what it found in the cache for as long as nobody used it."""
        return self.served.held_block_ns + self.idle_block_ns

    @cached_property
    def idle_block_ns(self) -> Ints:
        """Blocks that every turn found in the cache x nanoseconds that they waited for it there, shape (rows,)."""
        served, parent = self.served, self.batch.parent
        idle_ns = np.maximum(served.scheduled_ns - served.finish_ns[parent], 0)
        stayed = (parent >= 0) & (self._status == OK)
        engine = self.pricing.engine
        stayed_tokens = served.cached_tokens - served.loaded_tokens
        found_blocks = cached_blocks(engine.windows, stayed_tokens // engine.block_size, engine.block_size)
        return np.where(stayed, found_blocks * idle_ns, 0)

    @property
    def _prefill_ns(self) -> Ints:
        return self.served.first_token_ns - self.served.scheduled_ns

    @cached_property
    def _recomputed_tokens(self) -> Ints:
        lost = np.maximum(self.served.hittable_tokens - self.served.cached_tokens, 0)
        return np.where(self._status == OK, lost, -1)

    @cached_property
    def _refused_trajectories(self) -> npt.NDArray[np.bool_]:
        refused = np.zeros(len(self.batch), bool)
        refused[self.batch.trajectory[self._status != OK]] = True
        return refused

    def _sum_tokens(self, column: Ints) -> Ints:
        sums = np.zeros(len(self.batch), np.int64)
        np.add.at(sums, self.batch.trajectory, np.where(self._status == OK, column, 0))
        return sums

    def _sum(self, nanoseconds: Ints) -> Floats:
        return seconds(self._sum_tokens(nanoseconds), self._refused_trajectories)
