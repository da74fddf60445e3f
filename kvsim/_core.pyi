from typing import Any

Rates: Any
GroupRates: Any
Turns: Any

def estimate(rates: Any, step: Any, turns: Any, columns: Any | None) -> tuple[Any, Any]: ...
