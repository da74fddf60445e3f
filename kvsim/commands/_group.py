"""How a command ends: errors as one message and an exit code, never a traceback; quietly when interrupted."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from kvsim.errors import KvsimError

INTERRUPTED = 130
"""What shells expect of a program ended by Ctrl-C."""

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Failures to write that no option of ours mends: the disk, the quota, or the file is full."""


class Group(TyperGroup):
    """The commands, with kvsim's errors turned into messages and exit codes."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        _never_fail_to_encode()
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except KvsimError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:  # the reader of our output has seen enough (| head)
            _write_no_more()
            raise typer.Exit(1) from None
        except OSError as error:
            if error.errno not in FULL:
                raise
            _write_no_more()
            typer.echo(f"error: {error.filename or 'the output'}: cannot be written: {error.strerror}", err=True)
            raise typer.Exit(1) from None
        return result


def _write_no_more() -> None:
    """Let what is still to be written to stdout go nowhere, so that the end of the program does not fail on it."""
    with contextlib.suppress(OSError, io.UnsupportedOperation):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _never_fail_to_encode() -> None:
    """Write "?" for what the terminal's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
