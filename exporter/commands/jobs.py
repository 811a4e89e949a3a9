"""``export``, ``calibrate`` and ``plan``: the straight line, or a stretch of it. All three take the same request."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from inspect import Signature, signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import typer

from vggt_edge.calibration.scenes.names import printable
from vggt_edge.exporter.commands import options
from vggt_edge.exporter.commands.output import print_document, print_error, print_result, stdout_to_stderr
from vggt_edge.exporter.commands.signing import SIGNING_FLAGS, make_signing

if TYPE_CHECKING:
    from vggt_edge.devices.errors import VggtEdgeError
    from vggt_edge.exporter.machine.progress import Progress
    from vggt_edge.exporter.request import ExportRequest
    from vggt_edge.exporter.signing.sign import Signing

# Every step takes the request and a progress to report to, and returns a dataclass of paths and figures.
Job = Callable[..., object]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    _add(app, "export", _export, "Export a model for a device: calibrate, plan, lower, validate, and write a bundle.")
    _add(
        app,
        "calibrate",
        _calibrate,
        "Record what flows through the model on your scenes; writes stats.json and stats.safetensors.",
    )
    _add(app, "plan", _plan, "Choose a precision for every block; writes plan.json.")


def _export(request: ExportRequest, progress: Progress, signing: Signing | None = None) -> object:
    from vggt_edge.exporter import job

    return job.export(request, progress, signing)


def _calibrate(request: ExportRequest, progress: Progress) -> object:
    from vggt_edge.exporter import job

    return job.calibrate(request, progress)


def _plan(request: ExportRequest, progress: Progress) -> object:
    from vggt_edge.exporter import job

    return job.plan(request, progress)


def _add(app: typer.Typer, name: str, job: Job, summary: str) -> None:
    """Add the command ``name``, with a flag for every setting of a request and the flags for output and logging."""

    def command(
        *,
        config: options.Config = None,
        set_: options.Set = None,
        dry_run: options.DryRun = False,
        json: options.Json = False,
        log_level: options.Log = options.LogLevel.WARNING,
        **given: Any,
    ) -> None:
        signing = make_signing(**{key: given.pop(key) for key in SIGNING_FLAGS if key in given})
        # A switch that is not set says nothing, so that a file can set it.
        values = {key: value or None if isinstance(value, bool | list) else value for key, value in given.items()}
        request = _resolve(values, set_ or (), config)
        if dry_run:
            _print_dry_run(name, request, as_json=json, quiet=log_level is options.LogLevel.ERROR)
            return
        run = job if signing is None else partial(job, signing=signing)
        _run(run, request, as_json=json, quiet=log_level is options.LogLevel.ERROR)

    own = [flag for flag in signature(command, eval_str=True).parameters.values() if flag.name != "given"]
    signs = SIGNING_FLAGS.values() if name == "export" else ()
    flags = [*options.flags_of_settings(), *signs, *own]
    # Typer reads a function's parameters; these are as many as there are settings.
    command.__signature__ = Signature(flags)  # type: ignore[attr-defined]
    command.__annotations__ = {flag.name: flag.annotation for flag in flags}
    app.command(name, help=summary)(command)


def _resolve(values: Mapping[str, object], set_values: Iterable[str], config: Path | None) -> ExportRequest:
    """The request, and the cheap checks: what is wrong here is said before torch is even imported."""
    from vggt_edge.devices.errors import InputError
    from vggt_edge.exporter.request import resolve_request, settings_of_profile

    request = resolve_request(values, set_values, config, settings_of_profile)
    for path in (request.scenes, request.validate_on):
        if path is not None and not path.exists():
            raise InputError("no such file or folder", where=str(path), expected="scenes")
    _check_output(request.output, resume=request.resume)
    return request


def _check_output(output: Path, *, resume: bool) -> None:
    from vggt_edge.calibration.scenes.names import is_unicode, shown
    from vggt_edge.devices.errors import UsageError
    from vggt_edge.exporter.steps.cache import check_free

    if not resume:  # a resumed job may find its output published already
        check_free(output)
    if not is_unicode(str(output.absolute())):
        raise UsageError(
            "the output folder's name is not UTF-8",
            where=shown(str(output.absolute())),
            expected="a name that safetensors can write to",
            remedy="choose another -o",
        )
    parent = _existing_parent(output)
    if not parent.is_dir():
        raise UsageError("the output folder would lie inside a file", where=str(parent), expected="a folder")


def _existing_parent(output: Path) -> Path:
    return next(folder for folder in output.absolute().parents if folder.exists())


def _check_writable(output: Path) -> None:
    """By trying, since permission bits do not tell of read-only mounts, nor anything to root."""
    from vggt_edge.devices.errors import ResourceError

    parent = _existing_parent(output)
    try:
        with TemporaryDirectory(prefix=".vggt-edge-", dir=parent):
            pass
    except OSError as error:
        raise ResourceError(
            f"nothing can be written there: {error.strerror}",
            where=str(parent),
            remedy="choose another -o, or change the rights",
        ) from error


def _print_dry_run(verb: str, request: ExportRequest, *, as_json: bool, quiet: bool) -> None:
    """The configuration, what the command would need, and whether it would be refused; exit code 7 if so.

    As text it stays a file for ``--config``.
    """
    from vggt_edge.exporter import job
    from vggt_edge.exporter.machine.estimate import check, shares
    from vggt_edge.exporter.machine.progress import make_progress
    from vggt_edge.exporter.request import to_settings, to_toml
    from vggt_edge.exporter.steps.cache import work_folder

    with stdout_to_stderr():
        needed = job.dry_run(verb, request, make_progress(quiet=quiet, as_json=as_json))
    refused = _refusal(lambda: check(needed, request.output, work_folder(request.output)))
    exit_code = refused.exit_code if refused else 0
    if as_json:
        document = {"dry_run": True, "request": to_settings(request), "estimate": needed.to_dict()}
        print_document({**document, "would_be_refused": str(refused) if refused else None, "exit_code": exit_code})
    else:
        print(to_toml(request), end="")
        lines = ["Estimate for this machine, within about a factor of two", *map(": ".join, shares(needed))]
        lines += f"would be refused: {refused}".splitlines() if refused else []
        print(printable("\n".join(["", *(f"# {line}" for line in lines)])))
    if refused:
        print_error(refused)
    raise typer.Exit(exit_code)


def _refusal(check: Callable[[], None]) -> VggtEdgeError | None:
    from vggt_edge.devices.errors import ResourceError

    try:
        check()
    except ResourceError as error:
        return error
    return None


def _run(job: Job, request: ExportRequest, *, as_json: bool, quiet: bool) -> None:
    from vggt_edge.exporter.machine.progress import make_progress

    _check_writable(request.output)
    with stdout_to_stderr():
        result = job(request, make_progress(quiet=quiet, as_json=as_json))
    print_result(result, as_json=as_json)
