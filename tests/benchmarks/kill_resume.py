"""Killing an export in the middle of its steps, resuming it, and comparing what it made with an uninterrupted one."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from artifacts import stage_of_line
from measure import Run, Watch

KILLED = "killed on purpose"
SHORTEST_S = 0.5  # a step that is over before two samples cannot be aimed at


@dataclass(frozen=True)
class Kill:
    """One aim: SIGKILL to the whole tree ``delay_s`` after the step ``stage`` began."""

    stage: str
    delay_s: float


def choose_kills(seconds_of_stage: Mapping[str, float], count: int, seed: int) -> tuple[Kill, ...]:
    """The ``count`` longest steps in the order in which they run, each with a seeded moment inside it."""
    aimed = sorted(seconds_of_stage, key=lambda name: seconds_of_stage[name], reverse=True)[:count]
    generator = random.Random(seed)
    return tuple(
        Kill(stage, round(generator.uniform(0.1, 0.9) * seconds, 2))
        for stage, seconds in seconds_of_stage.items()
        if stage in aimed and seconds >= SHORTEST_S
    )


def watch_for(kill: Kill, log: Path) -> Watch:
    """True once ``kill.delay_s`` have passed since the log said that the step began."""
    began: list[float] = []

    def watch(elapsed_s: float) -> bool:
        if not began:
            lines = log.read_text(errors="replace").splitlines()
            if any(stage_of_line(line) == kill.stage for line in lines):
                began.append(elapsed_s)
        return bool(began) and elapsed_s - began[0] >= kill.delay_s

    return watch


# (number of the run, whether to resume, what ends it) to how it went and where its log lies.
RunExport = Callable[[int, bool, Callable[[Path], Watch]], Run]


def kill_and_resume(run_export: RunExport, kills: tuple[Kill, ...]) -> list[tuple[str, Run]]:
    """Every run with what was aimed at; the last one is left to finish. A run over before its aim ends it all."""
    runs: list[tuple[str, Run]] = []
    for number, kill in enumerate(kills):
        run = run_export(number, number > 0, lambda log, kill=kill: watch_for(kill, log))  # type: ignore[misc]
        runs.append((f"kill -9, {kill.delay_s:g} s into '{kill.stage}'", run))
        if run.ended != KILLED:
            return runs
    runs.append(("left to finish", run_export(len(kills), bool(kills), lambda log: lambda elapsed_s: False)))
    return runs
