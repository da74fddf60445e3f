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
from kvsim.backends.run_sums import RunSums, Spread, held_block_ns, idle_block_ns, recomputed_tokens, sums_of
from kvsim.errors import InputError
from kvsim.result import STATUSES, Costed, Table, seconds
from kvsim.uncertainty import Interval, Uncertainty

if TYPE_CHECKING:
    from kvsim.backends.interface import Ints
    from kvsim.pricing import Pricing
    from kvsim.retention import Policy
    from kvsim.trajectory import Batch

Floats = npt.NDArray[np.float64]

BYTES_PER_TURN = 400
"""What a simulation and its sums take at their peak, and some more; measured: bench/scaling.py."""


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
        self._known: tuple[tuple[float, ...], RunSums] | None = None
        """The last shares and what was added up with them."""

    @property
    def sums(self) -> RunSums:
        """What its turns come to by trajectory and by replica, in whole nanoseconds and tokens."""
        return self._known[1] if self._known is not None else self._added_up(())

    def spreads(self, shares: tuple[float, ...]) -> dict[str, Spread]:
        """Of turns' times and of latencies the mean's parts and the neighbours of quantiles, ``shares`` rising.

        Over the trajectories that were served whole; names are those of :data:`kvsim.backends.run_sums.SPREAD`.
        Raises InputError for shares that do not rise from 0 to 1.
        """
        if not all(0 <= below <= above <= 1 for below, above in zip((0.0, *shares), (*shares, 1.0), strict=True)):
            raise InputError(f"shares {shares!r}", field="shares", remedy="Let them rise, from 0 to at most 1")
        known = self._known
        return (known[1] if known is not None and known[0] == shares else self._added_up(shares)).spreads

    def _added_up(self, shares: tuple[float, ...]) -> RunSums:
        engine, replicas = self.pricing.engine, self._how.fleet.replicas
        sums = sums_of(self.batch, self.served, replicas, engine.block_size, engine.windows, shares, where=self.backend)
        self._known = shares, sums  # at once: other threads may ask
        return sums

    @cached_property
    def totals(self) -> dict[str, float]:
        """Sums of the columns of trajectories over those that were served whole: exact, and rounded once."""
        whole = self.sums.whole
        gpu_s = whole["gpu_ns"] * self.pricing.engine.tensor_parallel_size / 10**9
        return {
            "cached_tokens": whole["cached_tokens"],
            "recomputed_tokens": whole["recomputed_tokens"],
            "latency_s": (whole["last_finish_ns"] - whole["first_release_ns"]) / 10**9,
            "model_s": whole["model_ns"] / 10**9,
            "queue_s": whole["queue_ns"] / 10**9,
            "fresh_prefill_s": whole["fresh_prefill_ns"] / 10**9,
            "recompute_s": whole["recompute_ns"] / 10**9,
            "decode_s": whole["decode_ns"] / 10**9,
            "gpu_s": gpu_s,
            "kv_byte_s": whole["held_block_ns"] * self.pricing.pool_block_bytes / 10**9,
            "usd": self.usd_of(gpu_s),
            "joules": self.joules_of(gpu_s),
        }

    @property
    def served_whole(self) -> npt.NDArray[np.bool_]:
        """Whether all turns of the trajectory were served, shape (trajectories,)."""
        whole: npt.NDArray[np.bool_] = self.sums.trajectories.refused == 0
        return whole

    @property
    def ok(self) -> npt.NDArray[np.bool_]:
        """Whether the turn was served, shape (rows,)."""
        served: npt.NDArray[np.bool_] = self._status == OK
        return served

    @property
    def latency_s(self) -> Floats:
        """Last finish minus first arrival, tool pauses included (over the DAG of turns)."""
        return self._seconds(self.sums.trajectories.last_finish_ns - self.sums.trajectories.first_release_ns)

    @property
    def model_s(self) -> Floats:
        """Time in the engine, queueing included: the sum of the turns' ``e2e_s``."""
        return self._seconds(self.sums.trajectories.model_ns)

    @property
    def queue_s(self) -> Floats:
        """Time before the first step."""
        return self._seconds(self.sums.trajectories.queue_ns)

    @property
    def fresh_prefill_s(self) -> Floats:
        """Prefill of tokens that were never in the cache."""
        return self._seconds(self.sums.trajectories.fresh_prefill_ns)

    @property
    def recompute_s(self) -> Floats:
        """Prefill of tokens that had been in the cache and were evicted."""
        return self._seconds(self.sums.trajectories.recompute_ns)

    @property
    def decode_s(self) -> Floats:
        """From the first token to the last, with what preemption cost in between."""
        return self._seconds(self.sums.trajectories.decode_ns)

    @property
    def gpu_s(self) -> Floats:
        """GPU-seconds: each step's time shared by tokens among its requests, x tensor_parallel_size."""
        return self._seconds(self.sums.trajectories.gpu_ns) * self.pricing.engine.tensor_parallel_size

    @property
    def kv_byte_s(self) -> Floats:
        """KV-cache bytes held (all ranks) x seconds, with the pauses through which they stayed in the cache.

        What requests hold at the same time counts for each of them, and so does a context that several extend.
        """
        return self._seconds(self.sums.trajectories.held_block_ns) * self.pricing.pool_block_bytes

    @property
    def cached_tokens(self) -> Ints:
        """Prompt tokens found in the cache, host tier included, at each turn's first admission."""
        return self.sums.trajectories.cached_tokens.copy()

    @property
    def loaded_tokens(self) -> Ints:
        """Of the cached tokens those that were loaded from the host tier."""
        return self.sums.trajectories.loaded_tokens.copy()

    @property
    def recomputed_tokens(self) -> Ints:
        """Prompt tokens that had been in the cache and were evicted."""
        return self.sums.trajectories.recomputed_tokens.copy()

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
        replicas = self.sums.replicas
        return {
            "prefilled_tokens": max(replicas.longest_prefill_tokens),
            "sequences": min(self.peak_sequences, self.pricing.engine.max_num_seqs),
            "context_tokens": max(replicas.longest_context_tokens),
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

    @property
    def peak_sequences(self) -> int:
        """The most turns that a replica had at once between their first step and their end."""
        return max(self.sums.replicas.peak_sequences)

    @cached_property
    def replicas(self) -> list[ReplicaRun]:
        """Totals of each replica."""
        usable_blocks = self.pricing.engine.num_gpu_blocks - 1
        cached, prompt = self.sums.replicas.cached_tokens, self.sums.replicas.prompt_tokens
        return [
            ReplicaRun.of(
                dict(zip(REPLICA_TOTALS, totals, strict=True)), _share(cached[replica], prompt[replica]), usable_blocks
            )
            for replica, totals in enumerate(self._totals.tolist())
        ]

    @cached_property
    def engine(self) -> ReplicaRun:
        """Totals of all replicas: sums, the last end, the highest peak."""
        totals = {
            name: max(column) if name in ("end_ns", "peak_blocks") else sum(column)
            for name, column in zip(REPLICA_TOTALS, self._totals.T.tolist(), strict=True)
        }
        cached, prompt = sum(self.sums.replicas.cached_tokens), sum(self.sums.replicas.prompt_tokens)
        return ReplicaRun.of(totals, _share(cached, prompt), self.pricing.engine.num_gpu_blocks - 1)

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
        if (turns := sum(self.sums.replicas.turns)) == self.batch.turns:
            return {STATUSES[OK]: turns} if turns else {}
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

    @cached_property
    def _held_block_ns(self) -> Floats:
        """While the turn ran, and what it found in the cache for as long as nobody used it."""
        engine = self.pricing.engine
        return held_block_ns(self.batch, self.served, engine.block_size, engine.windows)

    @cached_property
    def idle_block_ns(self) -> Floats:
        """Blocks that every turn found in the cache x nanoseconds that they waited for it there, shape (rows,)."""
        engine = self.pricing.engine
        return idle_block_ns(self.batch, self.served, engine.block_size, engine.windows)

    @property
    def _prefill_ns(self) -> Ints:
        return self.served.first_token_ns - self.served.scheduled_ns

    @cached_property
    def _recomputed_tokens(self) -> Ints:
        return recomputed_tokens(self.served)

    @cached_property
    def _unknown(self) -> npt.NDArray[np.bool_] | None:
        """The trajectories whose times are unknown; None: there is none."""
        refused = self.sums.trajectories.refused != 0
        return refused if refused.any() else None

    def _seconds(self, nanoseconds: Ints | Floats) -> Floats:
        return seconds(nanoseconds, self._unknown)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
