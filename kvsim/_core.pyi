from typing import Any

Rates: Any
GroupRates: Any
Turns: Any
Scheduler: Any

def estimate(
    rates: Any, step: Any, turns: Any, columns: Any | None, threads: int, rows_per_thread: int
) -> tuple[Any, Any]: ...
def pte(rates: Any | None, step: Any | None, turns: Any, weights: Any) -> Any: ...
def simulate(*inputs: Any, evictions: bool = False) -> tuple[tuple[Any, ...], list[tuple[int, ...]], Any]: ...
def without(
    turns: Any, offsets: Any, entries: Any, rollouts: Any, positions: Any, base: int, left: tuple[Any, ...]
) -> int: ...
def run_sums(
    turns: Any, served: Any, replicas: int, block_size: int, windows: Any, shares: Any
) -> tuple[Any, Any, Any, Any]: ...
