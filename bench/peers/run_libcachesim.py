"""An LRU of so many objects over a trace of one id a line: `python -I run_libcachesim.py TRACE OBJECTS`."""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version

import libcachesim

trace, objects = sys.argv[1:]
reader = libcachesim.TraceReader(trace, libcachesim.TraceType.PLAIN_TXT_TRACE)
cache = libcachesim.LRU(cache_size=int(objects))
with open(trace, "rb") as lines:
    blocks = sum(1 for _ in lines)
start_s = time.process_time()
miss_ratio, _ = cache.process_trace(reader)
cpu_s = time.process_time() - start_s
told = {"blocks": blocks, "hit_rate": 1 - miss_ratio, "cpu_s": cpu_s, "version": version("libcachesim")}
print(json.dumps(told))
