"""AIConfigurator's milliseconds of steps: `python run_aiconfigurator.py '{"rows": [...]}'`, in its environment."""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version

from aiconfigurator_core.sdk.engine import EngineHandle
from aiconfigurator_points import MODELS, SYSTEMS

handles: dict[tuple[str, str], EngineHandle] = {}


def milliseconds(row: dict) -> float | None:
    key = (MODELS.get(row["model"], row["model"]), SYSTEMS[row["gpu"]])
    try:
        if key not in handles:
            handles[key] = EngineHandle.compile(*key, "vllm", tp_size=1, moe_tp_size=1, moe_ep_size=1)
        if row["decoding"]:
            return float(handles[key].decode_step_latency(row["decoding"], row["context"], 2))
        return float(handles[key].predict_prefill_latency(1, row["new"] + row["cached"], row["cached"]))
    except Exception:  # whatever it says of what it has no tables for
        return None


rows = json.loads(sys.argv[1])["rows"]
found = [milliseconds(row) for row in rows]
known = next(row for row, one in zip(rows, found, strict=True) if one is not None)
start_s = time.process_time()
for _ in range(300):
    milliseconds(known)
call_us = (time.process_time() - start_s) / 300 * 1e6
print(json.dumps({"milliseconds": found, "call_us": call_us, "version": version("aiconfigurator")}))
