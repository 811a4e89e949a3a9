"""``validate``, ``verify``, ``inspect`` and ``diff``: what looks at artifacts that exist already."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vggt_edge.calibration.scenes.names import printable
from vggt_edge.exporter.commands import options
from vggt_edge.exporter.commands.output import print_lines, print_result, print_table
from vggt_edge.exporter.commands.signing import make_verifier
from vggt_edge.exporter.settings import TIME_LIMIT_S


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    app.command()(validate)
    app.command()(verify)
    app.command()(inspect)
    app.command()(diff)


def validate(
    bundle: options.Bundle,
    model: options.BundleModel = None,
    target: options.BundleTarget = None,
    scenes: options.BundleScenes = None,
    execute: options.Execute = None,
    time_limit: options.TimeLimit = TIME_LIMIT_S,
    json: options.Json = False,
    log_level: options.Log = options.LogLevel.WARNING,
) -> None:
    """Run a bundle's graph again and judge it against FP32; exit code 4 when a tolerance is broken.

    A process of its own does it, which is ended when it takes more time than --time-limit or all memory of the machine.
    """
    from vggt_edge.exporter import limited
    from vggt_edge.exporter.validation.summary import summary

    report = limited.validate(
        bundle,
        time_limit_s=time_limit,
        log_level=log_level,
        as_json=json,
        model=model,
        target=target,
        scenes=scenes,
        execute=execute,
    )
    if json:
        print_result(report, as_json=True)
    else:
        print_lines(tuple(summary(report)))


def verify(
    bundle: options.Bundle,
    key: options.TrustedKey = None,
    certificate_chain: options.TrustedChain = None,
    identity: options.Identity = None,
    min_release: options.MinRelease = None,
    json: options.Json = False,
    log_level: options.Log = options.LogLevel.WARNING,
) -> None:
    """Check every file of a bundle against its manifest: nothing changed, missing or added.

    With --key or --certificate-chain, also check who has signed it. No network is used.
    """
    from vggt_edge.exporter.bundle import device_results, verify_bundle
    from vggt_edge.exporter.signing.sign import Verified, signature_state, verify_signature

    verifier = make_verifier(key, certificate_chain, identity, min_release)
    signature = signature_state(bundle) if verifier is None else verify_signature(bundle, verifier, min_release)
    manifest = verify_bundle(bundle)
    results = device_results(bundle)
    if json:
        print_result(Verified(**vars(manifest), signature=signature), as_json=True)
        return
    print_result(manifest, as_json=False)
    print(printable(signature.text))
    for result in results:
        print(printable(f"{result.path}: {result.status} on the device"))


def inspect(
    path: Annotated[Path, typer.Argument(help="Bundle, plan.json, stats.json, ONNX file or .mlpackage to show.")],
    json: options.Json = False,
    log_level: options.Log = options.LogLevel.WARNING,
) -> None:
    """Show what is inside an artifact, without running it."""
    from vggt_edge.exporter.commands.inspect import describe, show

    description = describe(path)
    if json:
        print_result(description, as_json=True)
    else:
        show(description)


def diff(
    first: options.Bundle,
    second: Annotated[Path, typer.Argument(metavar="OTHER", help="Bundle to compare it with.")],
    json: options.Json = False,
    log_level: options.Log = options.LogLevel.WARNING,
) -> None:
    """Say what differs between two bundles: settings, plan, sizes, latency, accuracy, audits and files.

    The exit code is 0 whether they differ or not.
    """
    from vggt_edge.exporter.difference import difference

    found = difference(first, second)
    if json:
        print_result(found, as_json=True)
        return
    if not found.changes:
        print("no difference")
        return
    rows = [
        (one.section, one.name, *map(cell, (one.first, one.second)), percent(one.relative)) for one in found.changes
    ]
    print_table("Differences", ("section", "name", str(first), str(second), "change"), rows)


def cell(value: str | float | None) -> str:
    """A value of a table; a dash for none."""
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def percent(share: float | None) -> str:
    """A share as percent with its sign, such as ``+12.5 %``; empty for none."""
    return "" if share is None else f"{share:+.1%}".replace("%", " %")
