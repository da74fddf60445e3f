"""Logs of the real vLLM engine, a line a step, with the workloads behind them.

A folder holds ``steps_ENGINE.jsonl[.gz]`` (one line ``init``, then one a step), and for runs of multi-turn sessions
``turns_ENGINE.jsonl`` (a line a turn), ``plan_RUN.json`` (the workload) and ``runs.jsonl`` (when each run began).
Fields that are not listed here are ignored.
"""

from __future__ import annotations

import gzip
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from kvsim.backends.engine_kernels import LRU, NO_CACHE, Settings
from kvsim.errors import InputError
from kvsim.trajectory import Batch


class LoggedEngine(msgspec.Struct):
    """A log's first line: an engine's limits, by vLLM's names."""

    block_size: int
    num_blocks: int
    max_num_batched_tokens: int
    max_num_seqs: int
    watermark_blocks: int
    reserve_full_isl: bool
    policy: str
    prefix_caching: bool
    chunked_prefill: bool
    long_prefill_token_threshold: int
    async_scheduling: bool = False

    @property
    def arguments(self) -> dict[str, int | bool]:
        """As engine arguments, as far as they bear on a step."""
        return {
            "block_size": self.block_size,
            "num_gpu_blocks_override": self.num_blocks,
            "max_num_batched_tokens": self.max_num_batched_tokens,
            "max_num_seqs": self.max_num_seqs,
            "enable_prefix_caching": self.prefix_caching,
            "async_scheduling": self.async_scheduling,
        }

    @property
    def settings(self) -> Settings:
        """As the scheduler's kernels take them."""
        return Settings(
            block_size=self.block_size,
            num_gpu_blocks=self.num_blocks,
            max_num_batched_tokens=self.max_num_batched_tokens,
            max_num_seqs=self.max_num_seqs,
            long_prefill_token_threshold=self.long_prefill_token_threshold,
            watermark_blocks=self.watermark_blocks,
            scheduler_reserve_full_isl=int(self.reserve_full_isl),
            enable_chunked_prefill=int(self.chunked_prefill),
            priority=int(self.policy.upper().endswith("PRIORITY")),
            retention=LRU if self.prefix_caching else NO_CACHE,
            async_scheduling=int(self.async_scheduling),
        )


class Work(NamedTuple):
    """What a step does for one request; ``admitted`` is 1 in the step that admits it."""

    request: str
    before: int
    tokens: int
    admitted: int
    preemptions: int


class LoggedStep(msgspec.Struct):
    """One step: what it decided, when it began and ended (``t0``, ``t3``: seconds of one clock), and for how long its
    worker was ready to run but had no CPU (``wait_ns``)."""

    i: int
    t0: float
    reqs: list[Work]
    waiting: int
    running: int
    free: int
    preempted: list[str]
    evicted: int
    t3: float | None = None
    wait_ns: int = 0


class LoggedTurn(msgspec.Struct):
    """One turn as its client saw it; ``t_queued`` (from the run's beginning) is the engine's word."""

    request_id: str
    run: str
    session: int
    turn: int
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    t_queued: float | None = None
    ttft_s: float | None = None
    e2e_s: float | None = None


class PlannedTurn(msgspec.Struct):
    """Tokens appended to the context, tokens generated, and the pause after the turn in seconds."""

    append: int
    output: int
    pause: float


class PlannedSession(msgspec.Struct):
    """A session: when it starts, and the system prompt that it shares with all others."""

    shared_system: int
    start: float = 0.0
    turns: list[PlannedTurn] = []


class _Named(msgspec.Struct):
    name: str


class Plan(msgspec.Struct):
    """The workload of a run: the same plan on the same engine is a repeat."""

    sessions: list[PlannedSession]
    engine: _Named | None = None
    work: _Named | None = None


class _RunStart(msgspec.Struct):
    run: str
    t0: float


class Lengths(Protocol):
    """What a batch needs to know of a turn."""

    @property
    def session(self) -> int: ...
    @property
    def turn(self) -> int: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def output_tokens(self) -> int: ...


@dataclass(frozen=True)
class StepLog:
    """One engine's log."""

    path: Path
    engine: LoggedEngine
    steps: list[LoggedStep]

    @property
    def name(self) -> str:
        """The engine's name."""
        return engine_name(self.path)


@dataclass(frozen=True)
class Run:
    """One logged run. ``turns`` stand in the order of sessions and turns, ``start_s`` is on the clock of the steps."""

    name: str
    plan: Plan
    turns: list[LoggedTurn]
    start_s: float
    steps: list[LoggedStep]


def find_logs(directory: str | Path) -> list[Path]:
    """All step logs below a folder. Raises :class:`InputError` where there is none."""
    logs = sorted([*Path(directory).rglob("steps_*.jsonl"), *Path(directory).rglob("steps_*.jsonl.gz")])
    if not logs:
        raise InputError("no steps_*.jsonl[.gz] below it", file=str(directory), remedy="Give a folder of step logs")
    return logs


def engine_name(log: Path) -> str:
    """The ENGINE of ``steps_ENGINE.jsonl[.gz]``."""
    return log.name.removeprefix("steps_").removesuffix(".gz").removesuffix(".jsonl")


def read_log(path: Path) -> StepLog:
    """A whole log. Raises :class:`InputError` naming file and line."""
    numbered = _numbered(path)
    first = next(numbered, None)
    if first is None:
        raise InputError("the log is empty", file=str(path), remedy="Its first line must be the engine's limits")
    engine = _decode(first[1], LoggedEngine, path, first[0])
    return StepLog(path, engine, [_decode(line, LoggedStep, path, number) for number, line in numbered])


def runs_of(log: StepLog) -> tuple[list[Run], str]:
    """The runs of a log that have turns, a plan and a start, or the reason why there is none."""
    turns_file = log.path.with_name(f"turns_{log.name}.jsonl")
    if not turns_file.exists():
        return [], f"no {turns_file.name}"
    if log.engine.async_scheduling:
        return [], "asynchronous scheduling"
    turns = defaultdict(list)
    for turn in read_lines(turns_file, LoggedTurn):
        turns[turn.run].append(turn)
    starts = {run.run: run.t0 for run in read_lines(log.path.with_name("runs.jsonl"), _RunStart)}
    steps = defaultdict(list)
    for step in log.steps:
        for name in {_run_of(work.request) for work in step.reqs}:
            steps[name].append(step)
    runs = []
    for name, own in turns.items():
        plan_file = log.path.with_name(f"plan_{name}.json")
        if plan_file.exists() and name in starts:
            plan = _decode(_bytes(plan_file), Plan, plan_file)
            own.sort(key=lambda turn: (turn.session, turn.turn))
            runs.append(Run(name, plan, own, starts[name], steps[name]))
    return runs, "" if runs else "no run with plan, turns and start"


def batch_of(turns: Sequence[Lengths], plan: Plan, pause_ns: Sequence[int], arrival_ns: Sequence[int]) -> Batch:
    """Turns in the order of sessions as a batch: those of a session extend each other, and sessions share the
    beginning of their system prompt."""
    columns: dict[str, Any] = defaultdict(list)
    for row, turn in enumerate(turns):
        root = turn.turn == 0
        before = turns[row - 1]
        shared = plan.sessions[turn.session].shared_system
        columns["parent"].append(-1 if root else row - 1)
        columns["kept_tokens"].append(shared if root else before.prompt_tokens + before.output_tokens)
        columns["prefix"].append(0 if root and shared else -1)
        columns["prompt_tokens"].append(turn.prompt_tokens)
        columns["output_tokens"].append(turn.output_tokens)
        columns["trajectory"].append(turn.session)
    columns["pause_ns"], columns["arrival_ns"] = pause_ns, arrival_ns
    return Batch.from_columns(**columns)


def _run_of(request: str) -> str:
    """The run of ``RUN/sSESSION/tTURN``; the server puts ``cmpl-`` before the id of a completion."""
    return request.split("/")[0].removeprefix("cmpl-")


def without_suffix(request: str) -> str:
    """A request's id as its client gave it: the engine appends ``-xxxxxxxx``."""
    return request.rsplit("-", 1)[0]


Record = TypeVar("Record")


def read_json(path: Path, kind: type[Record]) -> Record:
    """One JSON file. Raises :class:`InputError` naming it."""
    return _decode(_bytes(path), kind, path)


def read_lines(path: Path, kind: type[Record]) -> Iterator[Record]:
    """The lines of a JSON-lines file, packed or not. Raises :class:`InputError` naming file and line."""
    for number, line in _numbered(path):
        yield _decode(line, kind, path, number)


def _numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    lines: Iterable[bytes] = _bytes(path).splitlines()
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def _bytes(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError) as error:
        raise InputError(f"cannot be read ({error})", file=str(path)) from error


def _decode(raw: bytes, kind: type[Record], path: Path, line: int | None = None) -> Record:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError as error:
        remedy = "The file is cut off or of another kind"
        raise InputError(str(error), file=str(path), line=line, remedy=remedy) from None
