"""The scheduler driven from outside, a step at a time: for logs, and beside other schedulers."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple, Protocol

from kvsim.backends import engine_kernels as oracle
from kvsim.backends.engine_kernels import NO_PLAN, NOT_KEPT, Contexts, Plan, Settings
from kvsim.errors import BackendUnavailableError, InputError, UnknownNameError


class Step(NamedTuple):
    """What one step does. Lists of rows; ``work`` has (row, computed tokens before, tokens scheduled)."""

    work: list[tuple[int, int, int]]
    preempted: list[int]
    evicted: int
    free_blocks: int
    running: int
    waiting: int


class Stepper(Protocol):
    """A scheduler that does nothing by itself."""

    def arrive(self, row: int, now_ns: int = 0) -> None:
        """A request joins the waiting queue."""
        ...

    def schedule(self, now_ns: int = 0) -> Step:
        """Decide on the next step. With ``async_scheduling`` one step may be in flight, else none.

        Only plans ask what time it is.
        """
        ...

    def update(self, now_ns: int = 0) -> list[int]:
        """End the oldest step in flight; returns the rows that finished."""
        ...

    def cached_tokens(self, row: int) -> int:
        """Tokens that the row hit when it was first admitted, -1 if it was not yet."""
        ...

    def loaded_tokens(self, row: int) -> int:
        """Of these, the tokens that came from the host tier."""
        ...

    def next_event_ns(self) -> int:
        """When the plan next changes what can be scheduled: blocks are loaded, or held no longer. -1: never."""
        ...


class StepsInFlight:
    """Steps decided on that have not ended. A step may be empty; the kernels know only those that are not."""

    def __init__(self, settings: Settings) -> None:
        self._most = 2 if settings.async_scheduling else 1
        self._has_work: deque[bool] = deque()

    def require_room(self) -> None:
        """Raises :class:`InputError` if no step may be scheduled now."""
        if len(self._has_work) == self._most:
            raise InputError(
                f"schedule() with {self._most} steps in flight",
                field="async_scheduling",
                remedy="end the oldest one with update() first",
            )

    def begin(self, step: Step) -> Step:
        self._has_work.append(bool(step.work))
        return step

    def end(self) -> bool:
        """Whether the oldest step has anything to end."""
        return bool(self._has_work) and self._has_work.popleft()


class OracleStepper:
    """The readable text, uncompiled."""

    def __init__(self, settings: Settings, contexts: Contexts, plan: Plan = NO_PLAN) -> None:
        self._in_flight = StepsInFlight(settings)
        self._settings = settings
        self._contexts = contexts
        self.engine = oracle.new_engine(settings, contexts, plan, NOT_KEPT)

    def arrive(self, row: int, now_ns: int = 0) -> None:
        oracle.arrive(self._settings, self._contexts, self.engine, row, now_ns)

    def schedule(self, now_ns: int = 0) -> Step:
        self._in_flight.require_room()
        engine, counts = self.engine, self.engine.counts
        evicted = int(counts[oracle.EVICTED])
        oracle.schedule(self._settings, self._contexts, engine, now_ns)
        scheduled = int(counts[oracle.SCHEDULED])
        columns = (engine.scheduled, engine.before, engine.tokens)
        return self._in_flight.begin(
            Step(
                work=list(zip(*(column[:scheduled].tolist() for column in columns), strict=True)),
                preempted=engine.preempted[: counts[oracle.PREEMPTED]].tolist(),
                evicted=int(counts[oracle.EVICTED]) - evicted,
                free_blocks=int(counts[oracle.FREE]),
                running=int(counts[oracle.RUNNING]),
                waiting=int(counts[oracle.WAITING]),
            )
        )

    def update(self, now_ns: int = 0) -> list[int]:
        if not self._in_flight.end():
            return []
        oracle.update(self._settings, self._contexts, self.engine, now_ns)
        finished: list[int] = self.engine.finished[: self.engine.counts[oracle.FINISHED]].tolist()
        return finished

    def cached_tokens(self, row: int) -> int:
        return int(self.engine.cached[row])

    def loaded_tokens(self, row: int) -> int:
        return int(self.engine.loaded[row])

    def next_event_ns(self) -> int:
        return int(oracle.next_event_ns(self.engine))


class NativeStepper:
    """The C++ engine."""

    def __init__(self, settings: Settings, contexts: Contexts, plan: Plan = NO_PLAN) -> None:
        try:
            from kvsim import _core
        except ImportError as error:
            raise BackendUnavailableError(
                f"native: the C++ core is not built ({error}); reinstall kvsim with a C++17 compiler"
            ) from error
        self._in_flight = StepsInFlight(settings)
        self._scheduler = _core.Scheduler(settings, contexts, plan)

    def arrive(self, row: int, now_ns: int = 0) -> None:
        self._scheduler.arrive(row, now_ns)

    def schedule(self, now_ns: int = 0) -> Step:
        self._in_flight.require_room()
        return self._in_flight.begin(Step(*self._scheduler.schedule(now_ns)))

    def update(self, now_ns: int = 0) -> list[int]:
        if not self._in_flight.end():
            return []
        finished: list[int] = self._scheduler.update(now_ns)
        return finished

    def cached_tokens(self, row: int) -> int:
        return int(self._scheduler.cached_tokens(row))

    def loaded_tokens(self, row: int) -> int:
        return int(self._scheduler.loaded_tokens(row))

    def next_event_ns(self) -> int:
        return int(self._scheduler.next_event_ns())


STEPPERS: dict[str, type[OracleStepper] | type[NativeStepper]] = {
    "native": NativeStepper,
    "reference": OracleStepper,
}


def stepper(backend: str, settings: Settings, contexts: Contexts, plan: Plan = NO_PLAN) -> Stepper:
    """A scheduler with an empty cache, from a backend by name."""
    if backend not in STEPPERS:
        raise UnknownNameError("backend", backend, STEPPERS)
    return STEPPERS[backend](settings, contexts, plan)
