"""A strict reader of traces in the Trace Event Format: what it returns is well-formed, what is not fails the test."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

Event = dict[str, Any]

#: Fields of each phase used: those that must be there, and those that may.
FIELDS = {
    "M": ({"ph", "pid", "tid", "name", "args"}, set()),
    "X": ({"ph", "pid", "tid", "ts", "dur", "name", "cat"}, {"args"}),
    "i": ({"ph", "pid", "tid", "ts", "name", "cat", "s"}, {"args"}),
    "C": ({"ph", "pid", "ts", "name", "cat", "args"}, set()),
    "s": ({"ph", "pid", "tid", "ts", "name", "cat", "id"}, set()),
    "f": ({"ph", "pid", "tid", "ts", "name", "cat", "id", "bp"}, set()),
}
METADATA = {
    "process_name": ("name", str),
    "process_sort_index": ("sort_index", int),
    "thread_name": ("name", str),
    "thread_sort_index": ("sort_index", int),
}


def read_trace(path: Path) -> list[Event]:
    """The events of a file, checked; ``ts`` and ``dur`` are whole nanoseconds."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    document = json.loads(data.decode("utf-8"), parse_float=Decimal, parse_constant=refuse)
    assert set(document) == {"displayTimeUnit", "otherData", "traceEvents"}
    assert document["displayTimeUnit"] in ("ms", "ns")
    events = [_checked(event) for event in document["traceEvents"]]
    _check_tracks(events)
    _check_arrows(events)
    return events


def _checked(event: Event) -> Event:
    must, may = FIELDS[event["ph"]]
    assert must <= set(event) <= must | may, event
    assert isinstance(event["name"], str)
    assert event["name"]
    assert type(event["pid"]) is int
    assert event["pid"] > 0, "pid 0 is the idle process"
    assert type(event.get("tid", 0)) is int
    assert isinstance(event.get("args", {}), dict)
    for name in {"ts", "dur"} & set(event):
        assert isinstance(event[name], Decimal), f"{name} is a number with three decimals"
        assert event[name].as_tuple().exponent == -3
        assert event[name] >= 0
        event[name] = int(event[name] * 1000)
    if event["ph"] == "M":
        field, kind = METADATA[event["name"]]
        assert set(event["args"]) == {field}
        assert isinstance(event["args"][field], kind)
    if event["ph"] == "C":
        assert all(isinstance(value, (int, Decimal)) for value in event["args"].values())
        assert len(event["args"]) == 1
    if event["ph"] == "i":
        assert event["s"] == "t"
    if event["ph"] == "f":
        assert event["bp"] == "e"
    return event


def _check_tracks(events: Iterable[Event]) -> None:
    """Every process and thread has one name, and slices of a thread nest; sets each slice's ``children``."""
    named = [(event["pid"], event["tid"], event["name"]) for event in events if event["ph"] == "M"]
    assert len(named) == len(set(named))
    threads = {(pid, tid) for pid, tid, name in named if name == "thread_name"}
    assert len({tid for _, tid in threads}) == len(threads), "threads of two processes share a number"
    processes = {pid for pid, _, name in named if name == "process_name"}
    assert {event["pid"] for event in events} <= processes
    tracks = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            tracks[event["pid"], event["tid"]].append(event)
    assert set(tracks) <= threads
    for slices in tracks.values():
        open_slices: list[Event] = []
        # The file's order decides between slices that start together, as it does in viewers.
        for event in sorted(slices, key=lambda event: event["ts"]):
            event["children"] = []
            while open_slices and end(open_slices[-1]) <= event["ts"]:
                open_slices.pop()
            if open_slices:
                assert end(event) <= end(open_slices[-1]), "a slice ends after the one it lies in"
                open_slices[-1]["children"].append(event)
            open_slices.append(event)


def _check_arrows(events: Iterable[Event]) -> None:
    """Every arrow starts and ends once, forward in time, within slices."""
    slices = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            slices[event["pid"], event["tid"]].append(event)
    starts = {event["id"]: event for event in events if event["ph"] == "s"}
    ends = {event["id"]: event for event in events if event["ph"] == "f"}
    arrows = [event for event in events if event["ph"] in "sf"]
    assert len(arrows) == 2 * len(starts) == 2 * len(ends)
    assert starts.keys() == ends.keys()
    for number, start in starts.items():
        assert start["ts"] <= ends[number]["ts"]
        assert (start["name"], start["cat"]) == (ends[number]["name"], ends[number]["cat"])
    for arrow in arrows:
        own = slices[arrow["pid"], arrow["tid"]]
        assert any(part["cat"] == "turn" and part["ts"] <= arrow["ts"] < end(part) for part in own)


def end(event: Event) -> int:
    """When a slice ends, in nanoseconds."""
    return int(event["ts"] + event["dur"])


def of(events: Iterable[Event], category: str) -> list[Event]:
    """The slices of a category."""
    return [event for event in events if event["ph"] == "X" and event["cat"] == category]
