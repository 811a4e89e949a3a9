"""``deploy``: take a bundle to devices, run its kit there, and bring the results back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from vggt_edge.calibration.scenes.names import printable
from vggt_edge.exporter.commands import options
from vggt_edge.exporter.commands.output import print_document, print_error, print_table, to_document
from vggt_edge.exporter.commands.signing import make_verifier
from vggt_edge.exporter.deploy.settings import KitLanguage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vggt_edge.exporter.deploy.outcome import Attempt
    from vggt_edge.exporter.deploy.settings import Settings
    from vggt_edge.exporter.signing.keys import Verifier

To = Annotated[
    list[str],
    typer.Option(
        "--to",
        metavar="ADDRESS",
        help="Device: ssh://user@host:port/folder (host is enough), adb, or adb:SERIAL; repeatable.",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FOLDER",
        help="New folder for report and results. Default: the bundle's name with -devices.",
        show_default=False,
    ),
]
HostKey = Annotated[
    list[str] | None,
    typer.Option(
        "--host-key",
        metavar="SHA256:...",
        help="Fingerprint of a board that known_hosts does not list, as the refusal shows it; repeatable.",
        show_default=False,
    ),
]
TimeLimit = Annotated[
    float | None,
    typer.Option(
        "--time-limit",
        metavar="SECONDS",
        min=1,
        help="End the kit on a device after this time. Default: 7200, 2 hours.",
        show_default=False,
    ),
]
Runs = Annotated[
    int | None,
    typer.Option(
        "--runs",
        metavar="N",
        min=1,
        max=1_000_000,
        help="Measured predictions. Default: the kit's.",
        show_default=False,
    ),
]
Kit = Annotated[
    KitLanguage,
    typer.Option("--kit", help="Kit that boards run; cpp is compiled there with cmake first.", show_default=True),
]
Runner = Annotated[
    Path | None,
    typer.Option("--runner", metavar="FILE", help="The executor_runner that adb needs.", show_default=False),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        metavar=options.NO_VALUE,
        help="Check the boards and say what would be sent; change nothing.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command of this module to the command line."""
    app.command()(deploy)


def deploy(
    bundle: options.Bundle,
    to: To,
    output: Output = None,
    host_key: HostKey = None,
    time_limit: TimeLimit = None,
    runs: Runs = None,
    kit: Kit = KitLanguage.PYTHON,
    runner: Runner = None,
    key: options.TrustedKey = None,
    certificate_chain: options.TrustedChain = None,
    identity: options.Identity = None,
    min_release: options.MinRelease = None,
    dry_run: DryRun = False,
    json: options.Json = False,
    log_level: options.Log = options.LogLevel.WARNING,
) -> None:
    """Run a bundle on devices over SSH or adb, and bring their results into its report.

    With --key or --certificate-chain, only a bundle of that signer is sent. With --key, boards check the signature too.

    The exit code is that of the first device, in the order given, that failed.
    """
    from vggt_edge.exporter.deploy.settings import TIME_LIMIT_S, Settings

    verifier = make_verifier(key, certificate_chain, identity, min_release)
    if verifier is not None:
        from vggt_edge.exporter.signing.sign import verify_signature

        verify_signature(bundle, verifier, min_release)
    with _key_to_send(verifier) as key_to_send:
        settings = Settings(
            host_keys=frozenset(host_key or ()),
            time_limit_s=TIME_LIMIT_S if time_limit is None else time_limit,
            runs=runs,
            kit=kit,
            key=key_to_send,
            min_release=min_release,
            runner=runner,
            dry_run=dry_run,
        )
        _run(bundle, to, output or _beside(bundle), settings, as_json=json, quiet=log_level is options.LogLevel.ERROR)


@contextmanager
def _key_to_send(verifier: Verifier | None) -> Iterator[Path | None]:
    """A file with the public key alone: what --key names may hold more, a private key even."""
    pem = None if verifier is None else verifier.public_pem
    if pem is None:
        yield None
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / "key.pub"
        path.write_bytes(pem)
        yield path


def _beside(bundle: Path) -> Path:
    whole = bundle.absolute()
    return whole.with_name(f"{whole.name}-devices")


def _run(bundle: Path, to: list[str], output: Path, settings: Settings, *, as_json: bool, quiet: bool) -> None:
    from vggt_edge.exporter.bundle import verify_bundle
    from vggt_edge.exporter.deploy.address import parse_addresses
    from vggt_edge.exporter.deploy.outcome import exit_code_of
    from vggt_edge.exporter.deploy.results import answer_of, write_results
    from vggt_edge.exporter.deploy.run import deploy_all, kits_of
    from vggt_edge.exporter.machine.progress import make_progress
    from vggt_edge.exporter.steps.cache import check_free

    addresses = parse_addresses(to)
    check_free(output)
    manifest = verify_bundle(bundle)
    kits = kits_of(bundle, manifest, addresses, settings)
    note = make_progress(quiet=quiet, as_json=as_json).note
    attempts = deploy_all(addresses, kits, manifest, settings, note)
    has_results = any(attempt.report for attempt in attempts)
    answer = answer_of(bundle, manifest, attempts, output if has_results else None, dry_run=settings.dry_run)
    if has_results:
        write_results(output, bundle, attempts, to_document(answer))
    exit_code = exit_code_of(attempts)
    _tell(attempts, output if has_results else None, settings, as_json=as_json)
    if as_json:
        print_document({"result": answer, "exit_code": exit_code})
    raise typer.Exit(exit_code)


def _tell(attempts: Sequence[Attempt], output: Path | None, settings: Settings, *, as_json: bool) -> None:
    """Errors on stderr; the table on stdout, unless that is for a document."""
    from vggt_edge.exporter.bundle import REPORT
    from vggt_edge.exporter.deploy.results import COLUMNS, table_rows

    for attempt in attempts:
        if attempt.error is not None:
            print_error(attempt.error)
    if as_json:
        return
    print_table("Would deploy" if settings.dry_run else "Devices", COLUMNS, table_rows(attempts))
    if output is not None:
        print(printable(f"report: {output / REPORT}"))
