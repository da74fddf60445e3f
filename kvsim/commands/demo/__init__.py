"""``kvsim demo``: a real agent's run, priced on two GPUs, with its KV cache kept and evicted."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvsim.commands._outlook import Outlook
    from kvsim.trajectory import Batch

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
GPUS = ("h100-sxm", "rtx-4090")
LOG = "openhands.jsonl"
"""The shipped example; ATTRIBUTION.md beside it says where it comes from."""


def demo() -> None:
    """Price a real coding agent's log on an H100 and an RTX 4090: runs offline, needs no GPU."""
    from kvsim.commands.estimate import price
    from kvsim.load import Load

    batch = example()
    _print(price(batch, gpus=list(GPUS), load=Load(kv="never"), model=MODEL))


def example() -> Batch:
    """The shipped log."""
    from importlib import resources

    from kvsim.logs import read

    with resources.as_file(resources.files("kvsim.commands.demo") / LOG) as path:
        return read(path, "neutral")


def _print(outlooks: list[Outlook]) -> None:
    from rich.console import Console

    from kvsim.commands import _comparison, _console, _summary
    from kvsim.commands._format import count, duration, money

    console: Console = _console.results()
    estimates = [each for outlook in outlooks for each in (outlook.estimate, outlook.evicted)]
    batch = estimates[0].batch
    headings = [f"{gpu}\nKV {fate}" for gpu in GPUS for fate in ("kept", "evicted")]
    sums = [_summary.totals(each) for each in estimates]
    kept, worst = sums[0::2], sums[1::2]
    first, last = int(batch.prompt_tokens.min()), int(batch.prompt_tokens.max())

    console.print("A coding agent (OpenHands) at work on three bugs of a compiler: a real log", style="bold")
    console.print(
        f"{count(len(batch), 'trajectory', 'trajectories')}, {count(batch.turns, 'turn')}, each ending in a tool call; "
        f"prompts grow from {count(first)} to {count(last)} tokens.\n"
        f"Priced with {MODEL}, alone on the GPU.\n"
    )
    console.print(_comparison.side_by_side(headings, estimates, estimates[0].priced))
    console.print("\nWhat it says", style="bold")
    for gpu, before, after in zip(GPUS, kept, worst, strict=True):
        more = after["model_s"] / before["model_s"] - 1
        console.print(
            f"- {gpu}: evicting the KV cache at every tool pause costs {100 * more:.0f} % more model time\n"
            f"  ({duration(before['model_s'])} to {duration(after['model_s'])}) and "
            f"{money(after['usd'] - before['usd'])} more: {count(after['recomputed_tokens'])} tokens prefilled again."
        )
    slower = kept[1]["model_s"] / kept[0]["model_s"]
    cheaper = kept[0]["usd"] / kept[1]["usd"]
    console.print(f"- {GPUS[1]} takes {slower:.1f} times as long as {GPUS[0]} and costs {cheaper:.1f} times less.")
    console.print("\nYour own logs: kvsim estimate FILES --model NAME --gpu NAME")
