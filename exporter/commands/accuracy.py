"""``bench accuracy``: methods of quantization against each other, on the same scenes, layers and figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vggt_edge.devices.errors import UsageError
from vggt_edge.exporter.commands import options
from vggt_edge.exporter.commands.output import print_result, print_table, stdout_to_stderr

if TYPE_CHECKING:
    from vggt_edge.exporter.contest.columns import Row
    from vggt_edge.exporter.contest.harness import Accuracy

MAX_SEEDS = 99  # so many sets of calibration scenes lie between those of other purposes


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    app.command()(accuracy)


def accuracy(
    model: options.Model = None,
    schemes: Annotated[
        str | None,
        typer.Option(
            metavar="LIST", help="Schemes to measure, separated by commas: w8a8,w8a8d,w4a16,w4a8d,w4a4d. Default: all."
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Methods to measure: rtn,smoothquant,awq,gptq,quarot,quantvggt,qvggt,ours. Default: all.",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, max=MAX_SEEDS, help="Number of seeds; each has its own calibration scenes.")
    ] = 3,
    scene_count: Annotated[int, typer.Option(min=1, help="Number of held-out scenes.")] = 64,
    calibration_scenes: Annotated[
        int | None, typer.Option(min=1, help="Number of calibration scenes. Default: as many as an export uses.")
    ] = None,
    frames: options.Frames = None,
    planted: Annotated[
        bool,
        typer.Option(
            "--planted",
            metavar=options.NO_VALUE,
            help="First enlarge some channels, without changing the FP32 outputs.",
        ),
    ] = False,
    ablation: Annotated[
        bool,
        typer.Option(
            "--ablation",
            metavar=options.NO_VALUE,
            help="Measure our method whole and without each of its parts, instead of the other methods.",
        ),
    ] = False,
    effort: Annotated[
        str | None, typer.Option(metavar="NAME", help="Effort of our method: fast, balanced or max. Default: balanced.")
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder that keeps each result; only missing ones are measured. Default: none."
        ),
    ] = None,
    json: options.Json = False,
    log_level: options.Log = options.LogLevel.WARNING,
) -> None:
    """Compare methods of quantization: every one at every scheme, mean and spread over the seeds, beside FP32."""
    from vggt_edge.exporter.contest import harness as contest
    from vggt_edge.exporter.contest.methods import METHODS, ablation_names
    from vggt_edge.exporter.machine.progress import make_progress
    from vggt_edge.exporter.models.registry import MINI
    from vggt_edge.exporter.steps.inputs import CALIBRATION_SCENES

    with stdout_to_stderr():
        request = contest.Request(
            model=model or MINI,
            schemes=_names(schemes, "--schemes") or contest.SCHEMES,
            methods=_names(methods, "--methods") or (ablation_names() if ablation else METHODS),
            seeds=seeds,
            scene_count=scene_count,
            calibration_scenes=calibration_scenes or CALIBRATION_SCENES,
            frames=frames,
            planted=planted,
            effort=effort or contest.EFFORT,
        )
        progress = make_progress(quiet=log_level is options.LogLevel.ERROR, as_json=json)
        found = contest.accuracy(request, progress, work)
    if json:
        print_result(found, as_json=True)
    else:
        _print(found)


def _names(text: str | None, option: str) -> tuple[str, ...]:
    """Each name once, in the order given; nothing for an option that was not."""
    names = tuple(dict.fromkeys(name.strip() for name in (text or "").split(",") if name.strip()))
    if text is not None and not names:
        raise UsageError(f"{option} names nothing", expected="names, separated by commas")
    return names


def _print(found: Accuracy) -> None:
    from vggt_edge.exporter.contest.columns import COLUMNS

    title = f"{found.model}, {found.variant}: {found.scene_count} held-out scenes of {found.frames} frames, "
    title += f"{found.calibration_scenes} to calibrate on, {found.seeds} seed(s)"
    title += f"; random weights ({found.random_weights})" if found.random_weights else ""
    print_table(title, ("scheme", "method", *(column.title for column in COLUMNS)), [_cells(row) for row in found.rows])
    if found.verdicts:
        rows = [(one.scheme, "met" if one.met else "MISSED", one.goal, one.detail) for one in found.verdicts]
        print_table("Goals", ("scheme", "", "goal", "found"), rows)


def _cells(row: Row) -> tuple[str, ...]:
    from vggt_edge.exporter.contest.columns import COLUMNS, cell

    return (row.scheme, row.method, *(cell(column, row) for column in COLUMNS))
