"""What a CUDA device does beside this machine's processor: `python on_a_card.py [--turns 1e7] [--out card.json]`.

Pricing from host memory and from the device's own, copies beside kernels, and sweeps of simulations. Wall times are
medians; the device's own times (kernels, copies) are CUPTI's, read by torch's profiler, and need torch. Each result is
compared with the native one before it is timed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from agent_sessions import ENGINE, Sessions
from conftest import MODEL, agent_runs
from peers.machine import machine

import kvsim
from kvsim import backends
from kvsim.backends import cuda
from kvsim.backends.interface import empty_columns
from kvsim.backends.serving import serve
from kvsim.cores import threads_of
from kvsim.pricing import resolve_pricing
from kvsim.simulation import begin

COLUMNS = ("parent", "kept_tokens", "prompt_tokens", "output_tokens", "pause_ns", "arrival_ns", "trajectory")


def timed(job: Callable[[], object], rounds: int) -> float:
    """The median wall time in seconds; once before, to warm up."""
    job()
    times = []
    for _ in range(rounds):
        start_s = time.perf_counter()
        job()
        times.append(time.perf_counter() - start_s)
    return median(times)


def on_the_device(job: Callable[[], object]) -> list[dict[str, Any]]:
    """Kernels and copies of a call: name, start and end in ms, as CUPTI saw them; none without torch."""
    try:
        import torch
        from torch.profiler import ProfilerActivity, profile
    except ImportError:
        return []
    torch.zeros(1, device="cuda")
    job()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        job()
        torch.cuda.synchronize()
    events = [
        {"name": event.name, "start_ms": event.time_range.start / 1e3, "end_ms": event.time_range.end / 1e3}
        for event in profiler.events()
        if event.device_type.name == "CUDA" and event.time_range.end > event.time_range.start
    ]
    return sorted(events, key=lambda event: event["start_ms"])


def kind(event: dict[str, Any]) -> str:
    """Of what is done: a copy there, a copy back, or a kernel."""
    name = event["name"]
    return "to device" if "HtoD" in name else "from device" if "DtoH" in name else "kernels"


def union_ms(events: list[dict[str, Any]]) -> float:
    """How long at least one of them was under way."""
    spent, end = 0.0, -1.0
    for event in sorted(events, key=lambda event: event["start_ms"]):
        spent += max(event["end_ms"] - max(event["start_ms"], end), 0.0)
        end = max(end, event["end_ms"])
    return spent


def pricing(turns: int, rounds: int) -> dict[str, float]:
    """Seconds for so many turns, from host memory and on the device."""
    batch = agent_runs(turns)
    native, card = backends.get("native"), cuda.load()
    rates = resolve_pricing(**MODEL)
    handle, packed = rates.handle(native), batch.packed(native)
    there_handle = rates.handle(card)
    start_s = time.perf_counter()
    units = card.pack(batch)
    took = {"turns": batch.turns, "host: dividing into units": time.perf_counter() - start_s}
    made, found = empty_columns(batch.turns), empty_columns(batch.turns)
    expected = native.estimate(handle, packed, made)
    priced = card.estimate(there_handle, units, found)
    np.testing.assert_array_equal(priced.totals, expected.totals)
    for name, column in found._asdict().items():
        np.testing.assert_array_equal(column, getattr(made, name), err_msg=name)
    cores = threads_of("auto")
    for threads in sorted({1, 4, cores}):
        for name, columns in (("totals", None), ("columns", made)):
            job = partial(native.estimate, handle, packed, columns, threads)
            took[f"native {name}, {threads} threads"] = timed(job, rounds)
            job = partial(card.estimate, there_handle, units, columns, threads)
            took[f"cuda {name} from host memory, {threads} threads"] = timed(job, rounds)

    arrays = on_device(batch)
    there = kvsim.DeviceBatch.from_columns(**arrays)
    took["device: checking columns"] = timed(lambda: kvsim.DeviceBatch.from_columns(**arrays), rounds)
    took["device totals"] = timed(lambda: card.call(there.resident.estimate, *there_handle, False), rounds)
    took["device columns"] = timed(lambda: card.call(there.resident.estimate, *there_handle, True), rounds)
    totals, held, columns = card.call(there.resident.estimate, *there_handle, True)
    for number in range(8):
        np.testing.assert_array_equal(totals[number].numpy(), expected.totals[:, number])
    assert held.numpy().tobytes() == expected.held_block_ns.tobytes()
    for array, name in zip(columns, made._fields, strict=True):
        np.testing.assert_array_equal(array.numpy(), getattr(made, name), err_msg=name)
    for name, with_columns in (("totals", False), ("columns", True)):
        events = on_the_device(partial(card.call, there.resident.estimate, *there_handle, with_columns))
        took[f"kernel alone, {name}"] = union_ms([one for one in events if kind(one) == "kernels"]) / 1e3
    return took


def on_device(batch: kvsim.Batch) -> dict[str, Any]:
    """The batch's columns in the device's memory, by torch."""
    import torch

    return {name: torch.from_numpy(np.array(getattr(batch, name))).cuda() for name in COLUMNS}


def overlap(turns: int) -> dict[str, float]:
    """How much of the copies of a pricing from host memory runs beside kernels and beside each other, in ms."""
    batch = agent_runs(turns)
    card, rates = cuda.load(), resolve_pricing(**MODEL)
    handle, units = rates.handle(card), card.pack(batch)
    found: dict[str, float] = {"turns": batch.turns}
    for name, columns in (("totals", None), ("columns", empty_columns(batch.turns))):
        events = on_the_device(partial(card.estimate, handle, units, columns, threads_of("auto")))
        if not events:
            continue
        kinds = {
            one: [event for event in events if kind(event) == one] for one in ("to device", "kernels", "from device")
        }
        for one, those in kinds.items():
            found[f"{name}: {one}"] = union_ms(those)
        found[f"{name}: any of them"] = union_ms(events)
        found[f"{name}: first to last"] = max(one["end_ms"] for one in events) - events[0]["start_ms"]
        found[f"{name}: in two places at once"] = sum(map(union_ms, kinds.values())) - union_ms(events)
    return found


def simulate(batch: kvsim.Batch, points: list[dict[str, Any]], backend: str) -> list[Any]:
    """The engine's totals at each point."""
    asked = {**MODEL, "engine": ENGINE, "keep": lambda run: run.engine, "threads": "auto"}
    return list(kvsim.sweep(batch, points, **asked, backend=backend))


def core_s(batch: kvsim.Batch, points: list[dict[str, Any]]) -> float:
    """Seconds that the C++ core takes for one of the points, on one core, without what Python does before and after."""
    native = serve("native")
    wanted = [next(begin(batch, **MODEL, engine=ENGINE, **point)) for point in points]
    return timed(lambda: [native(*one.inputs) for one in wanted], 3) / len(points)


def sweeps(sessions: int, turns: int, counts: list[int]) -> list[dict[str, float]]:
    """Seconds of sweeps of so many points, natively on all cores and on the device, and of their event loops alone."""
    batch = Sessions.draw(sessions, turns).batch()
    cores = threads_of("auto")
    rows = []
    for count in counts:
        points = [{"arrivals": f"poisson:{0.5 + number / count}", "seed": number} for number in range(count)]
        row: dict[str, float] = {"turns": batch.turns, "points": count, "cores": cores}
        results = {}
        for backend in ("native", "cuda"):
            start_s = time.perf_counter()
            results[backend] = simulate(batch, points, backend)
            row[backend] = time.perf_counter() - start_s
        assert results["native"] == results["cuda"]
        events = on_the_device(partial(simulate, batch, points, "cuda"))
        row["device: kernels"] = union_ms([one for one in events if kind(one) == "kernels"]) / 1e3
        row["one core: kernels"] = core_s(batch, points[:: max(count // 16, 1)]) * count
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=lambda text: int(float(text)), nargs="+", default=[10**4, 10**5, 10**6, 10**7])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--points", type=int, nargs="*", default=[16, 64, 256, 1024, 4096])
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    found: dict[str, Any] = {"machine": machine(), "devices": cuda.devices()["devices"]}
    print(found["machine"], *(device["name"] for device in found["devices"]), sep="\n", flush=True)
    found["pricing"] = []
    for turns in asked.turns:
        took = pricing(turns, asked.rounds)
        found["pricing"].append(took)
        print(f"\n{took['turns']:,} turns")
        for name, spent_s in took.items():
            if name != "turns":
                print(
                    f"  {name:40} {spent_s * 1e3:10.3f} ms  {took['turns'] / spent_s / 1e6:10.1f} M turns/s", flush=True
                )
    found["overlap"] = overlap(max(asked.turns))
    print("\noverlap, ms:", json.dumps(found["overlap"], indent=1), flush=True)
    found["sweeps"] = []
    for sessions, turns in ((20, 21), (200, 21)):
        found["sweeps"] += sweeps(sessions, turns, asked.points)
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
