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
    from kvsim.commands._outlook import look_out
    from kvsim.load import Load

    batch = example()
    _print(look_out(batch, gpus=list(GPUS), load=Load(kv="never"), model=MODEL))


def example() -> Batch:
    """The shipped log."""
    from importlib import resources

    from kvsim.logs import read

    with resources.as_file(resources.files("kvsim.commands.demo") / LOG) as path:
        return read(path, "neutral")


def _print(outlooks: list[Outlook]) -> None:
    from kvsim.commands._comparison import side_by_side
    from kvsim.commands._console import print_facts, results
    from kvsim.commands._format import count
    from kvsim.commands._totals import totals

    console = results()
    estimates = [each for outlook in outlooks for each in (outlook.estimate, outlook.evicted)]
    headings = [f"{gpu}\nKV {fate}" for gpu in GPUS for fate in ("kept", "evicted")]
    batch = estimates[0].batch
    first, last = int(batch.prompt_tokens.min()), int(batch.prompt_tokens.max())
    prompts = f"prompts of {count(first)} to {count(last)} tokens"

    console.print("A real log: the coding agent OpenHands works on three issues of a compiler,", style="bold")
    console.print(f"{count(batch.turns)} turns with tool pauses between them, {prompts}.")
    console.print(f"Priced with {MODEL}, alone on the GPU:\n")
    console.print(side_by_side(headings, estimates, estimates[0].priced))
    console.print()
    kept, evicted = ([totals(each) for each in half] for half in (estimates[0::2], estimates[1::2]))
    rows = [(gpu, [_eviction(*pair)]) for gpu, pair in zip(GPUS, zip(kept, evicted, strict=True), strict=True)]
    print_facts(console, [*rows, ("Both", [_choice(outlooks, kept)])])
    console.print("\nHow sure? In 90 % of held-out points measured times were off the estimate by", style="bold")
    print_facts(console, [(outlook.estimate.pricing.gpu.id, _sureness(outlook)) for outlook in outlooks])
    console.print("\nYour own logs: kvsim estimate FILES --model NAME --gpu NAME")


def _sureness(outlook: Outlook) -> list[str]:
    from kvsim.commands._evidence import interval

    residuals = outlook.estimate.pricing.calibration.residuals
    off = ", ".join(
        f"{interval(residual)} in {regime}" + ("" if residual.n else " (assumed)")
        for regime, residual in residuals.items()
    )
    return [off, *(f"beyond the evidence: {sentence}" for sentence in outlook.estimate.uncertainty.sentences)]


def _eviction(kept: dict[str, float], evicted: dict[str, float]) -> str:
    from kvsim.commands._format import count, money

    slower = 100 * (evicted["model_s"] / kept["model_s"] - 1)
    again = f"{count(evicted['recomputed_tokens'])} tokens are prefilled again"
    return (
        f"Losing the KV cache at every tool pause costs {slower:.0f} % more model time and "
        f"{money(evicted['usd'] - kept['usd'])}: {again}."
    )


def _choice(outlooks: list[Outlook], kept: list[dict[str, float]]) -> str:
    first, second = (outlook.estimate.usd_per_hour for outlook in outlooks)
    slower, dearer = kept[1]["model_s"] / kept[0]["model_s"], kept[0]["usd"] / kept[1]["usd"]
    return (
        f"{GPUS[1]} takes {slower:.1f} times as long in the model; {GPUS[0]} costs {dearer:.1f} times as much "
        f"(${first:.2f} against ${second:.2f} an hour)."
    )
