"""Reduce step logs of the real engine's sweeps to the observations that shipped calibrations are fitted on.

    python tools/reduce_engine_steps.py LOG --model NAME --gpu ID --version "vllm 0.32.0" --date 2026-11-22 -o FILE.csv

Steps of one probe that hold the same chunks beside as many decoding sequences become one row, the median of their
times; every probe stays. ``--held-out`` marks a model that no fit may see. The model is
``../models/NAME/config.json``, seen from the output's folder.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from kvsim.calibrate.observation_files import to_text
from kvsim.calibrate.observations import Header, Observation
from kvsim.calibrate.observed import reduced, step_rows
from kvsim.step_logs import read_log


def tidy(row: Observation) -> Observation:
    """Microseconds are enough."""
    return replace(
        row,
        seconds=round(row.seconds or 0.0, 6),
        at_s=round(row.at_s or 0.0, 3),
        cpu_wait_s=round(row.cpu_wait_s or 0.0, 6),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("log", type=Path, help="steps_ENGINE.jsonl[.gz]")
    for name in ("model", "gpu", "version", "date"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--max-model-len", type=int, default=4064)
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()

    log = read_log(options.log)
    header = Header(
        model=f"../models/{options.model}/config.json",
        gpu=options.gpu,
        engine_version=options.version,
        dtype=options.dtype,
        engine={
            **log.engine.arguments,
            "max_model_len": options.max_model_len,
            "kv_cache_memory_bytes": 2**30,
            "enforce_eager": True,
        },
        date=options.date,
        source=f"kvsim sweeps of {options.model}",
        note="held out" if options.held_out else "",
    )
    rows = [tidy(row) for row in reduced(step_rows(log))]
    options.output.write_text(to_text(header, rows), encoding="utf-8")
    print(f"{options.output}: {sum(row.steps or 1 for row in rows):,} steps in {len(rows)} rows")


if __name__ == "__main__":
    main()
