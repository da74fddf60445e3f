"""One replay of a file of sessions, in Dynamo's own environment: `python -I run_dynamo.py SESSIONS CONCURRENCY ENGINE`.

ENGINE is a JSON object. Prints Dynamo's summary, its version and the CPU time of the replay (without reading the
file: by the share that its own wall_time_ms has in the call) as one JSON object, on the last line.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version

from dynamo.replay import run_trace_replay

sessions, concurrency, engine = sys.argv[1:]
start_s, start_cpu_s = time.perf_counter(), time.process_time()
replay = run_trace_replay(
    sessions,
    trace_format="applied_compute_agentic",
    replay_concurrency=int(concurrency),
    trace_block_size=json.loads(engine)["block_size"],
    extra_engine_args={"engine": json.loads(engine)},
)
cpu_s, wall_s = time.process_time() - start_cpu_s, time.perf_counter() - start_s
cpu_s *= replay.summary["wall_time_ms"] / 1e3 / wall_s
print(json.dumps({**replay.summary, "cpu_s": cpu_s, "version": version("ai-dynamo")}))
