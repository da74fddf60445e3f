"""``kvsim convert``: any log that kvsim reads, as neutral JSON lines."""

from __future__ import annotations

from typing import Annotated

import typer

from kvsim.commands._options import Files, Format, Lenient, Tokenizer


def convert(
    files: Files,
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Where to write the JSON lines.")],
    format: Format = "auto",
    lenient: Lenient = False,
    tokenizer: Tokenizer = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output file.")] = False,
) -> None:
    """Convert logs to neutral JSON lines: one trajectory a line, counts and times only, no text.

    Example: [bold]kvsim convert sessions/ -o sessions.jsonl[/bold]
    """
    from pathlib import Path

    from kvsim.commands._console import print_facts, results, warn
    from kvsim.commands._inputs import read_logs
    from kvsim.commands._outputs import require_free
    from kvsim.commands._reading_facts import read_facts, read_warnings
    from kvsim.errors import InputError

    path = Path(output)
    require_free([output], force=force)
    batch = read_logs(files, format=format, lenient=lenient, tokenizer=tokenizer)
    try:
        batch.to_jsonl(path)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", file=output, remedy="Check the folder") from None
    print_facts(results(), [("Read", read_facts(batch)), ("Wrote", [f"{output}, {path.stat().st_size:,} bytes"])])
    warn(read_warnings(batch))
