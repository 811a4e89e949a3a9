"""``targets``, ``doctor`` and ``schemas``: devices, what this machine can do, and the forms of all documents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vggt_edge.exporter.commands import options
from vggt_edge.exporter.commands.output import print_document, print_result, print_table, stdout_to_stderr


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    app.command()(targets)
    app.command()(doctor)
    app.command()(schemas)


def targets(json: options.Json = False, log_level: options.Log = options.LogLevel.WARNING) -> None:
    """List the device profiles."""
    from vggt_edge.devices.profile import list_profiles
    from vggt_edge.devices.units import format_bytes

    profiles = list_profiles()
    if json:
        print_document({"targets": [profile.to_dict() for profile in profiles], "exit_code": 0})
        return
    rows = [
        (
            profile.name,
            ", ".join(profile.aliases) or "-",
            profile.title,
            profile.figures_hold_for,
            profile.runtime,
            format_bytes(profile.memory_bytes),
            f"{profile.bandwidth_bytes_per_s / 1e9:g} GB/s",
            " ".join(profile.schemes) + "".join(f" ({name})" for name in profile.on_request),
        )
        for profile in profiles
    ]
    columns = ("target", "aliases", "device", "chip", "runtime", "memory", "bandwidth", "schemes (on request)")
    print_table("Targets", columns, rows)


def schemas(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write them; older ones are replaced.")],
    json: options.Json = False,
    log_level: options.Log = options.LogLevel.WARNING,
) -> None:
    """Write the JSON schemas of all documents: of the files in a bundle, and of what --json prints."""
    from vggt_edge.exporter.schemas import write_schemas

    written = write_schemas(folder)
    print_result({"schemas": written, "folder": folder, "count": len(written)}, as_json=json)


def doctor(
    bundle: options.OptionalBundle = None,
    target: options.Target = None,
    json: options.Json = False,
    log_level: options.Log = options.LogLevel.WARNING,
) -> None:
    """Say which toolchains are here, what is missing, and how to get it; exit code 3 when something needed is missing.

    Needed are the package's own dependencies and, with --target, the backend of that target. With a bundle, also say
    which runtimes judged it.
    """
    from vggt_edge.exporter.bundle import read_manifest
    from vggt_edge.exporter.machine.doctor import JudgedBundle, examine

    with stdout_to_stderr():
        manifest = read_manifest(bundle) if bundle is not None else None
        judged = JudgedBundle(manifest.target, manifest.judged_with) if manifest else None
        findings = examine(target, bundle=judged)
    exit_code = 0 if all(finding.ok or not finding.needed for finding in findings) else 3
    if json:
        print_document({"findings": findings, "exit_code": exit_code})
    else:
        print_table(
            "Doctor",
            ("state", "subject", "found", "what to do"),
            [(finding.state, finding.subject, finding.found, finding.remedy or "-") for finding in findings],
        )
    raise typer.Exit(exit_code)
