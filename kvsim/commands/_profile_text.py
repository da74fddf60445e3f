"""GPUs and models as text for people."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from kvsim._inheritance import calibration_of
from kvsim.architecture import Architecture
from kvsim.calibration import shipped_calibration
from kvsim.commands._console import print_facts, table
from kvsim.commands._evidence import basis, evidence_facts
from kvsim.commands._format import count, plain
from kvsim.commands._profile_objects import WEIGHT_FORMATS
from kvsim.engine import EngineConfig, resolve
from kvsim.errors import KvsimError
from kvsim.hardware import Gpu, gpu, gpus

GIB = 2**30


def list_all(console: Console, cards: Iterable[Gpu], architectures: Iterable[Architecture]) -> None:
    """One line a GPU, then one line a model."""
    shown = table()
    for heading in ("GPU", "16-bit\nTFLOP/s", "memory\nGB/s", "memory\nGiB", "price\nUSD/h", "evidence"):
        shown.add_column(heading, justify="left" if heading in ("GPU", "evidence") else "right", no_wrap=True)
    for card in cards:
        shown.add_row(
            card.id,
            f"{card.half_flop_per_s / 1e12:,.0f}",
            count(card.memory_bandwidth_byte_per_s / 1e9),
            f"{card.device_memory_bytes / GIB:.1f}",
            f"{card.usd_per_hour:.2f}" if card.usd_per_hour else "-",
            basis(shipped_calibration(card.id)),
        )
    console.print(shown)
    console.print()
    shown = table()
    for heading in ("model", "params\nB", "active\nB", "weights\nGiB", "KV KiB\na token", "longest\ncontext"):
        shown.add_column(heading, justify="left" if heading == "model" else "right", no_wrap=True)
    for it in architectures:
        shown.add_row(
            it.name,
            plain(it.parameters / 1e9),
            plain(it.active_parameters / 1e9),
            plain(it.weight_bytes() / GIB),
            plain(it.kv_bytes_per_token() / 1024),
            count(it.max_model_len),
        )
    console.print(shown)
    console.print("\nkvsim profiles show NAME says where each number comes from.")
    console.print("Your own: the path of a GPU's TOML file or of a model's config.json in place of a name.")


def show_gpu(console: Console, card: Gpu) -> None:
    """A GPU's numbers with their sources, and what its prices rest on."""
    half = "bf16" if card.bf16 else "fp16"
    print_facts(
        console,
        [
            (
                "GPU",
                [f"{card.id}: {card.name}, {card.architecture}, compute capability {card.compute_capability}, {half}"],
            )
        ],
    )
    sources = list(dict.fromkeys(fact.source for _, fact in card.facts))
    shown = table()
    for heading in ("number", "value", "kind", "checked", "source"):
        shown.add_column(heading, justify="right" if heading == "value" else "left", no_wrap=heading != "source")
    for name, fact in card.facts:
        source = f"[{1 + sources.index(fact.source)}]" + (f" {fact.note}" if fact.note else "")
        shown.add_row(name, _with_unit(name, getattr(card, name)), fact.kind, str(fact.date), Text(source))
    console.print()
    console.print(shown)
    console.print()
    print_facts(console, [(f"[{number}]", [source]) for number, source in enumerate(sources, 1)])
    console.print()
    print_facts(console, [("Evidence", evidence_facts(calibration_of(card)))])


_UNITS = {
    "flop_per_s": (1e12, "TFLOP/s"),
    "byte_per_s": (1e9, "GB/s"),
    "device_memory_bytes": (GIB, "GiB"),
    "memory_bytes": (1e9, "GB"),
    "l2_bytes": (2**20, "MiB"),
    "_w": (1, "W"),
    "usd_per_hour": (1, "USD/h"),
}


def _with_unit(name: str, value: float) -> str:
    for suffix, (unit, label) in _UNITS.items():
        if name.endswith(suffix):
            return f"{value / unit:,.5g} {label}"
    return f"{value:,g}"


def show_model(console: Console, it: Architecture) -> None:
    """A model's sizes, its KV cache, and the GPUs that can serve it alone."""
    sizes = [f"{plain(it.weight_bytes() / GIB)} GiB as the checkpoint stores them"]
    sizes += [f"{plain(it.weight_bytes(name) / GIB)} GiB with --quantization {name}" for name in WEIGHT_FORMATS]
    groups = [
        f"{count(group.layers, 'layer')}: " + ("every token kept" if group.keeps_all else f"window {group.window:,}")
        for group in it.attention_groups()
    ]
    state = it.recurrent_state_bytes()
    cache = [f"{plain(it.kv_bytes_per_token(name) / 1024)} KiB a token in {name}" for name in ("bfloat16", "fp8")]
    cache += groups + ([f"{plain(state / 2**20)} MiB of recurrent state a sequence"] if state else [])
    rows = [
        ("Model", [it.name]),
        ("Size", [f"{plain(it.parameters / 1e9)} B parameters, {plain(it.active_parameters / 1e9)} B active a token"]),
        ("Weights", sizes),
        ("KV cache", cache),
        ("Longest", [f"{count(it.max_model_len)} tokens of context"]),
        ("Stored", [it.dtype + (f", quantised as {it.quantization.name}" if it.quantization else "")]),
        ("Fits on", [", ".join(_fitting(it)) or "no single GPU; --tensor-parallel-size spreads it over several"]),
        ("Source", [f"{it.kind}: {it.source}"]),
    ]
    if it.notes:
        rows.append(("Notes", list(it.notes)))
    print_facts(console, rows)


def _fitting(it: Architecture) -> list[str]:
    """The shipped GPUs on one of which the model fits with vLLM's defaults."""
    found = []
    for name in gpus():
        try:
            resolve(EngineConfig(), it, gpu(name))
        except KvsimError:
            continue
        found.append(name)
    return found
