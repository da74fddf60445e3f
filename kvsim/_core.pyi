from typing import Any

Rates: Any
GroupRates: Any
Turns: Any

def estimate(rates: Any, step: Any, turns: Any, with_turns: bool) -> tuple[Any, Any, tuple[Any, ...]]: ...
