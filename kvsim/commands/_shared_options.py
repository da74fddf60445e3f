"""Options that a decorator gives to commands, which take them together as one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any

Command = Callable[..., None]


def options_of(declared: Command) -> Mapping[str, Parameter]:
    """The options that a function's parameters declare, by name, in the order in which ``--help`` shows them."""
    return signature(declared, eval_str=True).parameters


def with_options(
    options: Sequence[Parameter], taken_as: str, made: Callable[[dict[str, Any]], Any]
) -> Callable[[Command], Command]:
    """Decorates a command with options, after its own; it takes as ``taken_as`` what ``made`` makes of those given."""

    def decorated(command: Command) -> Command:
        own = [each for each in options_of(command).values() if each.name != taken_as]
        keyword_only = [each for each in own if each.kind is Parameter.KEYWORD_ONLY]  # a signature has them last
        before = [each for each in own if each.kind is not Parameter.KEYWORD_ONLY]

        @wraps(command)
        def run(**given: Any) -> None:
            command(**{taken_as: made({option.name: given.pop(option.name) for option in options})}, **given)

        shown = [*before, *options, *keyword_only]
        vars(run)["__signature__"] = Signature(shown)
        run.__annotations__ = {option.name: option.annotation for option in shown}
        return run

    return decorated
