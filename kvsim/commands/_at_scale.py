"""``kvsim estimate --parquet FOLDER``: logs priced shard by shard, here or on a Ray cluster, and summed up."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from rich.console import Console

from kvsim.commands._console import print_facts
from kvsim.commands._format import count, duration, money, percent, plain
from kvsim.commands._json import write
from kvsim.commands._progress import Progress
from kvsim.pricing import resolve_pricing
from kvsim.scale import price

if TYPE_CHECKING:
    from kvsim.scale import Manifest
    from kvsim.scale.pricing import Priced


def price_into(folder: str, files: list[str], *, as_json: bool, console: Console, **how: Any) -> list[str]:
    """Price and say what came of it; returns warnings. ``how`` are the other arguments of :func:`kvsim.scale.price`."""
    known = 0
    with ExitStack() as stack:
        bar: Progress | None = None

        def progress(priced: Priced, done: int, total: int) -> None:
            nonlocal bar, known
            known += priced.process is None
            bar = bar or Progress(stack, "shards", total)
            bar.advance()

        manifest = price(files, folder, progress=progress, **how)
    if as_json:
        write(manifest.as_object())
    else:
        _show(console, manifest, known)
    return _warnings(manifest, how)


def _show(console: Console, manifest: Manifest, known: int) -> None:
    counts, report = manifest.counts, manifest.read
    shards = count(len(manifest.shards), "shard") + (f", {count(known)} of them from an earlier run" if known else "")
    lines = [
        f"{count(report.files, 'file')} in {shards}",
        f"{count(counts['trajectories'], 'trajectory', 'trajectories')}, {count(counts['turns'], 'turn')}: "
        f"{count(counts['prompt_tokens'])} prompt tokens, {count(counts['new_tokens'])} of them new; "
        f"{count(counts['output_tokens'])} output tokens",
    ]
    for label, told in (("left out by design", report.skipped), ("dropped as broken", report.dropped)):
        lines += [f"{label}: {number:,} x {reason}" for reason, number in sorted(told.items())]
    print_facts(console, [("Read", lines)])
    for gpu, prices in manifest.prices.items():
        print_facts(console, [(gpu, _lines(prices["totals"]))])
    print_facts(console, [("Written", [str(manifest.folder)])])


def _lines(sums: dict[str, float]) -> list[str]:
    if not sums.get("trajectories"):
        return ["none of the trajectories could be priced"]
    among = count(int(sums["trajectories"]), "trajectory", "trajectories")
    usd = [money(sums["usd"])] if sums["usd"] == sums["usd"] else []
    share = percent(sums["recompute_s"] / sums["model_s"])
    return [
        f"{among} priced: {duration(sums['latency_s'])} end to end, {duration(sums['model_s'])} in the model",
        ", ".join([f"{plain(sums['gpu_s'])} GPU-seconds", *usd]),
        f"{duration(sums['recompute_s'])} of recompute, {share} of the time in the model",
    ]


def _warnings(manifest: Manifest, how: dict[str, Any]) -> list[str]:
    counts, report, found = manifest.counts, manifest.read, []
    if report.dropped:
        found.append(f"{count(report.dropped.total(), 'broken record')} left out; the first: {report.first_dropped[0]}")
    if counts["estimated_tokens"]:
        share = counts["estimated_tokens"] / max(counts["new_tokens"] + counts["output_tokens"], 1)
        found.append(f"{percent(share)} of new and output tokens were estimated from text by {report.counted_with}")
    for card in how["gpu"]:
        pricing = resolve_pricing(how["model"], card, how["engine"], how["load"], how["calibration"])
        prices = manifest.prices[pricing.gpu.id]
        beyond = {name: number for name, number in prices["status_counts"].items() if name != "ok"}
        found += [f"{pricing.gpu.id}: {count(number, 'turn')} {name}: not priced" for name, number in beyond.items()]
        if prices["totals"].get("trajectories"):
            sure = pricing.uncertainty(**prices["extremes"])
            found += [f"{pricing.gpu.id}: beyond the evidence: {sentence}" for sentence in sure.sentences]
    return found
