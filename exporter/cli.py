"""The command ``vggt-edge``: arguments in, one exit code out. The work is in ``exporter/job.py`` and its neighbours.

Nothing here imports torch, or the commands that do: ``--help`` and ``targets`` answer at once.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Annotated

import typer

from vggt_edge.devices.errors import (
    NO_RIGHT,
    NO_ROOM,
    InputError,
    ResourceError,
    UsageError,
    VggtEdgeError,
    lacking,
)
from vggt_edge.exporter.commands import bench, bundles, deploy, jobs, machine, signing
from vggt_edge.exporter.commands.output import print_document, print_error
from vggt_edge.exporter.machine.process import (
    BROKEN_PIPE,
    Terminated,
    asked_to_end,
    flush_stdout,
    ignore_signals,
    is_broken_pipe,
    make_no_compiler_folder,
    prepare_streams,
    signals_raise,
)

INTERRUPTED = 130
_LOG_LEVELS = ("debug", "info", "warning", "error")
_LACKING = (*NO_ROOM, errno.ENOMEM)

app = typer.Typer(
    name="vggt-edge",
    help="Turn a VGGT checkpoint into a quantized, validated bundle for an edge device.",
    epilog="Exit codes: 0 ok, 2 usage, 3 missing toolchain, 4 accuracy gate, 5 budget, 6 lowering, 7 resources.",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vggt-edge {version('vggt-edge')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", callback=_print_version, is_eager=True, help="Print the version and leave."
        ),
    ] = False,
) -> None:
    pass


jobs.register(app)
bundles.register(app)
signing.register(app)
deploy.register(app)
machine.register(app)
bench.register(app)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; every error is told once, without a traceback.

    argv: the arguments; by default those of this process, whose streams are then made safe as well.
    """
    if argv is None:
        prepare_streams()
    make_no_compiler_folder()
    with signals_raise():
        code = _run(list(sys.argv[1:] if argv is None else argv))
    lost = flush_stdout()
    if argv is None:
        ignore_signals()
    if lost is None or code not in (0, ResourceError.exit_code):
        return code
    if is_broken_pipe(lost):  # a reader that has seen enough is no failure to talk about
        return BROKEN_PIPE
    return code or _fail(_explain_os_error(lost), as_json=False, exit_code=ResourceError.exit_code)


def _run(arguments: list[str]) -> int:
    as_json, log_level = "--json" in arguments, _log_level(arguments)
    try:
        logging.basicConfig(level=log_level.upper(), stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
        code = app(arguments or ["--help"], prog_name="vggt-edge", standalone_mode=False)
        if code == INTERRUPTED:  # typer turns a KeyboardInterrupt into this code
            raise KeyboardInterrupt
        return int(code or 0) if arguments else UsageError.exit_code
    except (KeyboardInterrupt, Terminated) as signalled:
        return _ended(signalled, as_json=as_json)
    except (BrokenPipeError, SystemExit):  # typer leaves this way when nobody reads what it prints
        return BROKEN_PIPE
    except Exception as error:  # the last line of defence: everything becomes one readable error
        if (end := asked_to_end()) is not None:
            return _ended(end, as_json=as_json)
        if log_level == "debug":
            traceback.print_exc()
        readable = explain(error)
        return _fail(readable, as_json=as_json, exit_code=readable.exit_code)


def _ended(end: KeyboardInterrupt | Terminated, *, as_json: bool) -> int:
    what, exit_code = "interrupted", INTERRUPTED
    if isinstance(end, Terminated):
        what, exit_code = f"ended by {end.signal.name}", end.exit_code
    error = VggtEdgeError(what, remedy="repeat the command with --resume to go on where it stopped")
    return _fail(error, as_json=as_json, exit_code=exit_code)


def _log_level(arguments: Sequence[str]) -> str:
    """Read ahead of the parser, because errors of the parser itself obey it too; the parser refuses unknown levels."""
    for position, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--log-level":
            level = value or (arguments[position + 1] if position + 1 < len(arguments) else "")
            return level if level in _LOG_LEVELS else "warning"
    return "warning"


def _fail(error: VggtEdgeError, *, as_json: bool, exit_code: int) -> int:
    print_error(error)
    if as_json:
        with suppress(OSError):  # the error itself may be that stdout takes nothing
            print_document({"error": error.fields, "exit_code": exit_code})
    return exit_code


def explain(error: Exception) -> VggtEdgeError:
    """Any exception as an error with an exit code; what nobody foresaw becomes exit code 1."""
    if isinstance(error, VggtEdgeError):
        return error
    if isinstance(error, OSError):
        return _explain_os_error(error)
    if lacking(error) == "no memory":
        return ResourceError(
            "out of memory",
            where=str(error),
            remedy="use fewer --frames or a smaller --resolution, or a larger machine",
        )
    hidden = _hidden_os_error(error)
    if hidden is not None:
        return _explain_os_error(hidden)
    if hasattr(error, "format_message"):  # the parser's own errors; typer keeps their classes private
        return UsageError(error.format_message(), remedy="see `vggt-edge COMMAND --help`")
    return VggtEdgeError(
        f"internal error: {type(error).__name__}: {error}",
        expected="no such error: this is a defect of vggt-edge",
        remedy="repeat with --log-level debug and report the traceback",
    )


def _hidden_os_error(error: Exception) -> OSError | None:
    """Native writers (safetensors, torch) report a full disk as text inside an error class of their own."""
    for code in (*_LACKING, *NO_RIGHT):
        if os.strerror(code) in str(error):
            return OSError(code, str(error))
    return None


def _explain_os_error(error: OSError) -> VggtEdgeError:
    where, reason = str(error.filename or ""), error.strerror or str(error)
    if error.errno in _LACKING:
        return ResourceError(f"no room left: {reason}", where=where, remedy="free some space, or choose another -o")
    if error.errno in NO_RIGHT:
        return ResourceError(f"no permission: {reason}", where=where, remedy="choose another -o, or change the rights")
    return InputError(f"cannot use a file: {reason}", where=where, expected="a readable file or folder")


if __name__ == "__main__":
    sys.exit(main())
