"""``kvsim profiles``: the GPUs and models that ship, and where each number comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kvsim.commands._options import Json

if TYPE_CHECKING:
    from kvsim.architecture import Architecture
    from kvsim.hardware import Gpu

app = typer.Typer(help="GPUs and models that ship, with the source of each number.", invoke_without_command=True)


@app.callback()
def default(context: typer.Context) -> None:
    """GPUs and models that ship, with the source of each number."""
    if context.invoked_subcommand is None:
        list_profiles()


@app.command("list")
def list_profiles(json: Json = False) -> None:
    """List all GPUs and models."""
    from kvsim.architecture import Architecture, models
    from kvsim.commands import _json, _profile_text
    from kvsim.commands._console import results
    from kvsim.commands._profile_objects import gpu_object, model_object
    from kvsim.hardware import gpu, gpus

    cards = [gpu(name) for name in gpus()]
    architectures = [Architecture.load(name) for name in models()]
    if json:
        _json.write(
            {
                "schema": "kvsim.profiles/1",
                "gpus": [gpu_object(card) for card in cards],
                "models": [model_object(architecture) for architecture in architectures],
            }
        )
    else:
        _profile_text.list_all(results(), cards, architectures)


@app.command("show", no_args_is_help=True)
def show(
    name: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A GPU or a model, or a file that describes one.")],
    json: Json = False,
) -> None:
    """Show one GPU's numbers with their sources, or what follows from a model's architecture."""
    from kvsim.commands import _json, _profile_text
    from kvsim.commands._console import results
    from kvsim.commands._profile_objects import gpu_object, model_object
    from kvsim.hardware import Gpu

    found = _find(name)
    if isinstance(found, Gpu):
        if json:
            _json.write({"schema": "kvsim.profile/1", **gpu_object(found)})
        else:
            _profile_text.show_gpu(results(), found)
    elif json:
        _json.write({"schema": "kvsim.profile/1", **model_object(found)})
    else:
        _profile_text.show_model(results(), found)


def _find(name: str) -> Gpu | Architecture:
    """The GPU or model of that name or file; GPUs are looked up first."""
    from kvsim.architecture import Architecture, models
    from kvsim.errors import UnknownNameError
    from kvsim.hardware import gpu, gpus

    is_path = name.startswith((".", "/", "~"))
    if name.endswith((".json", "/")) or (is_path and not name.endswith(".toml")):
        return Architecture.load(name)
    for load in (gpu, Architecture.load):
        try:
            return load(name)
        except UnknownNameError as error:
            if "ambiguous" in str(error):
                raise
    raise UnknownNameError("GPU or model", name, [*gpus(), *models()], remedy="'kvsim profiles list' shows all.")
