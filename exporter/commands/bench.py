"""``bench``: measure a model in every precision, with `accuracy` methods of quantization against each other."""

from __future__ import annotations

import math
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vggt_edge.devices.errors import UsageError
from vggt_edge.exporter.commands import accuracy, options
from vggt_edge.exporter.commands.output import print_result, print_table, stdout_to_stderr

if TYPE_CHECKING:
    from vggt_edge.exporter.answers import RandomCheckpoint
    from vggt_edge.exporter.machine.progress import Progress

_RANDOM_WARNING = (
    "WARNING: THESE WEIGHTS ARE RANDOM. Sizes, times and memory measured with them are real; poses, depth, ranges, "
    "outliers and every figure about accuracy mean nothing."
)


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    group = typer.Typer()
    group.callback(invoke_without_command=True)(bench)
    accuracy.register(group)
    app.add_typer(group, name="bench")


def bench(
    context: typer.Context,
    model: options.Model = None,
    frames: options.Frames = None,
    scene_count: Annotated[int, typer.Option("--scene-count", min=1, help="Number of held-out scenes.")] = 64,
    write_random_checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a checkpoint of VGGT-1B's shapes with random weights, for measuring sizes and times.",
        ),
    ] = None,
    width_divisor: Annotated[
        int | None, typer.Option(metavar="1|2|4|8", help="Divide the width of the random checkpoint by this number.")
    ] = None,
    seed: options.Seed = None,
    json: options.Json = False,
    log_level: options.Log = options.LogLevel.WARNING,
) -> None:
    """Measure a model on held-out synthetic scenes, in FP32 and in each precision: poses, depth, points, time, size.

    With `accuracy` behind it: methods of quantization against each other.
    """
    if context.invoked_subcommand is not None:
        _check_place(context)
        return
    from vggt_edge.exporter.machine.progress import make_progress

    progress = make_progress(quiet=log_level is options.LogLevel.ERROR, as_json=json)
    if write_random_checkpoint is not None:
        divisor = 1 if width_divisor is None else width_divisor
        print_result(_write_random(write_random_checkpoint, divisor, seed or 0, progress), as_json=json)
        return
    if width_divisor is not None:
        raise UsageError("--width-divisor alone", expected="--write-random-checkpoint FILE with it")
    from vggt_edge.exporter.contest.bench import bench as run_bench

    with stdout_to_stderr():
        figures = run_bench(model or "vggt-mini", progress, frames=frames, scene_count=scene_count, seed=seed or 0)
    if json:
        print_result(figures, as_json=True)
        return
    columns = [field.name for field in fields(figures.rows[0])]
    rows = [[_short(getattr(row, name)) for name in columns] for row in figures.rows]
    title = f"{figures.model}: {figures.scene_count} held-out scenes of {figures.frames} frames, seed {figures.seed}"
    title += f"; random weights ({figures.random_weights})" if figures.random_weights else ""
    print_table(title, columns, rows)


def _check_place(context: typer.Context) -> None:
    """Options of `bench` itself would be without effect in front of another word."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if given:
        raise UsageError(
            f"--{given[0].replace('_', '-')} stands before {context.invoked_subcommand}",
            expected=f"the options of {context.invoked_subcommand} behind it",
            remedy=f"see `vggt-edge bench {context.invoked_subcommand} --help`",
        )


def _write_random(path: Path, divisor: int, seed: int, progress: Progress) -> RandomCheckpoint:
    from vggt_edge.exporter.answers import RandomCheckpoint
    from vggt_edge.exporter.models import random_weights

    config = random_weights.scaled_config(divisor)
    with stdout_to_stderr():
        with progress.step("write random weights (MB)") as step:
            random_weights.write_random_checkpoint(
                path, config, seed, lambda done, total: step.update(done // 10**6, total // 10**6)
            )
        # Said even with --log-level error: it is about what the result is worth.
        print(f"{_RANDOM_WARNING} Seed {seed}, in {path}", file=sys.stderr)
    parameters = sum(map(math.prod, random_weights.tensor_shapes(config).values()))
    return RandomCheckpoint(path, config.name, path.stat().st_size, parameters, seed)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
