"""``kvsim profiles``: the GPUs and models that ship, and where each number comes from."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvsim.commands._options import Json

if TYPE_CHECKING:
    from kvsim.architecture import Architecture
    from kvsim.hardware import Gpu

app = typer.Typer(help="GPUs and models that ship, with the source of each number.", invoke_without_command=True)

GIB = 2**30
WEIGHT_DTYPES = ("none", "fp8", "awq", "mxfp4")


@app.callback()
def default(context: typer.Context) -> None:
    """GPUs and models that ship, with the source of each number."""
    if context.invoked_subcommand is None:
        list_profiles()


@app.command("list")
def list_profiles(json: Json = False) -> None:
    """List all GPUs and models."""
    from kvsim.architecture import Architecture, models
    from kvsim.calibration import shipped_calibration
    from kvsim.hardware import gpu, gpus

    cards = [(card := gpu(name), shipped_calibration(card.id)) for name in gpus()]
    architectures = [Architecture.load(name) for name in models()]
    if json:
        from kvsim.commands._json import write

        listed = [_gpu_object(card) for card, _ in cards]
        write({"schema": "kvsim.profiles/1", "gpus": listed, "models": [_model_object(it) for it in architectures]})
        return
    from kvsim.commands._console import results, table
    from kvsim.commands._format import count, plain

    console = results()
    shown = table()
    for heading in ("GPU", "16-bit TFLOP/s", "GB/s", "GiB", "USD/h", "evidence"):
        shown.add_column(heading, justify="left" if heading in ("GPU", "evidence") else "right", no_wrap=True)
    for card, calibration in cards:
        price = f"{card.usd_per_hour:.2f}" if card.usd_per_hour else "-"
        basis = "measured" if calibration.kind == "measured" else f"datasheet, as {calibration.relative}"
        rates = (f"{card.half_flop_per_s / 1e12:.0f}", count(card.memory_bandwidth_byte_per_s / 1e9))
        shown.add_row(card.id, *rates, f"{card.device_memory_bytes / GIB:.1f}", price, basis)
    console.print(shown)
    console.print()
    shown = table()
    for heading in ("model", "params B", "active B", "weights GiB", "KV KiB/token", "max length"):
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
    console.print("\nkvsim profiles show NAME gives each number's source. Your own: a GPU's TOML or a config.json.")


@app.command("show", no_args_is_help=True)
def show(
    name: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A GPU or a model, or a file that describes one.")],
    json: Json = False,
) -> None:
    """Show one GPU's numbers with their sources, or what follows from a model's architecture."""
    from kvsim.architecture import Architecture
    from kvsim.hardware import Gpu

    found = _find(name)
    if json:
        from kvsim.commands._json import write

        body = _gpu_object(found) if isinstance(found, Gpu) else _model_object(found)
        write({"schema": "kvsim.profile/1", **body})
    elif isinstance(found, Architecture):
        _print_model(found)
    else:
        _print_gpu(found)


def _find(name: str) -> Gpu | Architecture:
    """The GPU or model of that name; GPUs are looked up first."""
    from kvsim.architecture import Architecture, models
    from kvsim.errors import UnknownNameError
    from kvsim.hardware import gpu, gpus

    if name.endswith((".json", "/")):
        return Architecture.load(name)
    try:
        return gpu(name)
    except UnknownNameError as error:
        if "ambiguous" in str(error):
            raise
    try:
        return Architecture.load(name)
    except UnknownNameError as error:
        if "ambiguous" in str(error):
            raise
        raise UnknownNameError("GPU or model", name, [*gpus(), *models()]) from None


def _gpu_object(card: Gpu) -> dict[str, Any]:
    texts = ("id", "name", "architecture", "compute_capability", "bf16")
    facts = dict(card.facts)
    numbers = {name: {"value": getattr(card, name), **asdict(fact)} for name, fact in facts.items()}
    return {"type": "gpu", **{name: getattr(card, name) for name in texts}, "numbers": numbers, **_evidence(card.id)}


def _evidence(gpu_id: str) -> dict[str, Any]:
    from kvsim.calibration import shipped_calibration
    from kvsim.errors import UnknownNameError

    try:
        found = shipped_calibration(gpu_id)
    except UnknownNameError:
        return {"calibration": None}
    return {
        "calibration": {
            "kind": found.kind,
            "relative": found.relative or None,
            "date": found.date,
            "engines": list(found.overheads),
            "evidence": asdict(found.evidence),
        }
    }


def _model_object(it: Architecture) -> dict[str, Any]:
    return {
        "type": "model",
        "name": it.name,
        "parameters": it.parameters,
        "active_parameters": it.active_parameters,
        "layers": it.num_layers,
        "hidden_size": it.hidden_size,
        "vocab_size": it.vocab_size,
        "max_model_len": it.max_model_len,
        "dtype": it.dtype,
        "quantization": it.quantization.name if it.quantization else None,
        "weight_bytes": {"checkpoint": it.weight_bytes(), **{name: it.weight_bytes(name) for name in WEIGHT_DTYPES}},
        "kv_bytes_per_token": {name: it.kv_bytes_per_token(name) for name in ("bfloat16", "fp8")},
        "recurrent_state_bytes": it.recurrent_state_bytes(),
        "kind": it.kind,
        "source": it.source,
        "notes": list(it.notes),
    }


def _print_gpu(card: Gpu) -> None:
    from rich.text import Text

    from kvsim.calibration import shipped_calibration
    from kvsim.commands._console import print_facts, results, table
    from kvsim.commands._summary import evidence_facts
    from kvsim.errors import UnknownNameError

    console = results()
    half = "bf16" if card.bf16 else "fp16"
    console.print(
        f"{card.id}: {card.name}, {card.architecture}, compute capability {card.compute_capability}, {half}\n"
    )
    shown = table()
    for heading in ("number", "value", "kind", "date", "source"):
        shown.add_column(heading, justify="right" if heading == "value" else "left", no_wrap=heading != "source")
    for name, fact in card.facts:
        source = fact.source + (f" ({fact.note})" if fact.note else "")
        shown.add_row(name, _si(name, getattr(card, name)), fact.kind, str(fact.date), Text(source))
    console.print(shown)
    try:
        lines = evidence_facts(shipped_calibration(card.id))
    except UnknownNameError:
        lines = ["none ships; give one with --calibration"]
    console.print()
    print_facts(console, [("Evidence", lines)])


_UNITS = {
    "flop_per_s": (1e12, "TFLOP/s"),
    "byte_per_s": (1e9, "GB/s"),
    "memory_bytes": (GIB, "GiB"),
    "l2_bytes": (2**20, "MiB"),
    "_w": (1, "W"),
    "usd_per_hour": (1, "USD/h"),
}


def _si(name: str, value: float) -> str:
    for suffix, (unit, label) in _UNITS.items():
        if name.endswith(suffix):
            return f"{value / unit:,.5g} {label}"
    return f"{value:,g}"


def _print_model(it: Architecture) -> None:
    from kvsim.commands._console import print_facts, results
    from kvsim.commands._format import count, plain

    sizes = [f"{plain(it.weight_bytes() / GIB)} GiB as the checkpoint stores them"]
    sizes += [f"{plain(it.weight_bytes(name) / GIB)} GiB with --quantization {name}" for name in WEIGHT_DTYPES]
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
        ("Source", [f"{it.kind}: {it.source}"]),
    ]
    if it.notes:
        rows.append(("Notes", list(it.notes)))
    print_facts(results(), rows)
