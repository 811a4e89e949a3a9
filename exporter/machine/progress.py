"""Tells a waiting person what is going on: steps, done of total, time to go, peak memory.

Everything goes to stderr, so that stdout stays the document that ``--json`` promises. On a terminal a live bar;
otherwise plain lines, few enough for a log file; with ``--json`` events for a program.
"""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Protocol, TextIO

from vggt_edge.calibration.scenes.names import printable
from vggt_edge.exporter.machine.process import end_if_asked
from vggt_edge.exporter.machine.usage import peak_memory_bytes

if TYPE_CHECKING:
    from rich.progress import Progress as RichBar
    from rich.progress import TaskID

LINE_INTERVAL_S = 5.0
EVENT_INTERVAL_S = 1.0


class Step(Protocol):
    """One step under way."""

    def advance(self, count: int = 1) -> None:
        """``count`` more units of the step's total are done."""
        ...

    def update(self, done: int, total: int) -> None:
        """Set both figures; fits the ``Callable[[int, int], None]`` callbacks of the lower layers.

        Where the first call says that several units are done, an earlier run did them: pace and time to go are taken
        from there on.
        """
        ...


class Progress(Protocol):
    """What a job reports to."""

    def step(self, name: str, total: int | None = None) -> AbstractContextManager[Step]:
        """Open a step of ``total`` units (None: unknown); leaving the context ends it."""
        ...

    def note(self, text: str) -> None:
        """Say one line, between or inside steps."""
        ...


def eta_seconds(elapsed_s: float, done: int, total: int | None, initial: int = 0) -> float | None:
    """Time to go at the pace so far; None while nothing is done or the total is unknown.

    initial: of ``done``, what was done before ``elapsed_s`` began: it says nothing of the pace.
    """
    if not total or done <= initial:
        return None
    return elapsed_s / (done - initial) * max(total - done, 0)


def format_duration(seconds: float) -> str:
    """``7.3 s``, ``2 min 05 s``, ``1 h 02 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _peak() -> str:
    return f"peak memory {peak_memory_bytes() / 1e6:.0f} MB"


def note_random(how: str, progress: Progress) -> None:
    """Say that weights are random, and ``how`` they were drawn; nothing for those of a trained model."""
    if how:
        progress.note(f"random weights ({how}): sizes, times and memory are real, accuracy is not")


class SilentProgress:
    """Reports nothing; for tests and for use as a library."""

    @contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Step]:
        """A step that reports to nobody."""
        yield _Count(total, lambda _: None)

    def note(self, text: str) -> None:
        """Says nothing."""


SILENT = SilentProgress()


class _Count:
    """Counts units and hands itself to ``changed`` after each change. initial: units of an earlier run.

    A job that was asked to end does so here, should a library have swallowed the signal.
    """

    def __init__(
        self, total: int | None, changed: Callable[[_Count], None], clock: Callable[[], float] = perf_counter
    ) -> None:
        end_if_asked()
        self.done = self.initial = 0
        self.total = total
        self._changed = changed
        self._clock = clock
        self._began = clock()
        self._is_new = True

    def advance(self, count: int = 1) -> None:
        end_if_asked()
        self.done += count
        self._is_new = False
        self._changed(self)

    def update(self, done: int, total: int) -> None:
        end_if_asked()
        if self._is_new and done > 1:
            self.initial, self._began = done, self._clock()
        self.done, self.total, self._is_new = done, total, False
        self._changed(self)

    @property
    def to_go_s(self) -> float | None:
        """Seconds to go; None while nothing tells."""
        return eta_seconds(self._clock() - self._began, self.done, self.total, self.initial)

    @property
    def to_go(self) -> str:
        """``18.0 s to go``; empty while nothing tells."""
        return "" if self.to_go_s is None else f"{format_duration(self.to_go_s)} to go"


class Interval:
    """Spaces out lines of progress: at most one every ``seconds``, the first of them after as many."""

    def __init__(self, seconds: float, clock: Callable[[], float] = perf_counter) -> None:
        self._seconds = seconds
        self._clock = clock
        self._last = clock()

    def is_over(self) -> bool:
        """Whether a line is due; if so, the next interval begins."""
        now = self._clock()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True


class _LineProgress(ABC):
    """Lines on a stream: one as a step begins and ends, and in between at most one every ``interval_s`` seconds."""

    def __init__(self, stream: TextIO | None, interval_s: float, clock: Callable[[], float]) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._interval_s = interval_s
        self._clock = clock

    @contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Step]:
        """A line at the start, at most one per interval, and one at the end."""
        start, interval = self._clock(), Interval(self._interval_s, self._clock)
        self._started(name, total)

        def changed(count: _Count) -> None:
            if interval.is_over():
                self._under_way(name, count)

        yield _Count(total, changed, self._clock)
        # Reached only without an error: a step that failed must not read "done".
        self._done(name, self._clock() - start)

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    @abstractmethod
    def _started(self, name: str, total: int | None) -> None: ...

    @abstractmethod
    def _under_way(self, name: str, count: _Count) -> None: ...

    @abstractmethod
    def _done(self, name: str, seconds: float) -> None: ...


class PlainProgress(_LineProgress):
    """Plain lines, for people and log files."""

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        interval_s: float = LINE_INTERVAL_S,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        super().__init__(stream, interval_s, clock)

    def note(self, text: str) -> None:
        """One line on the stream."""
        self._print(printable(text))

    def _started(self, name: str, total: int | None) -> None:
        self.note(f"{name} ...")

    def _under_way(self, name: str, count: _Count) -> None:
        of_total = f"{count.done}/{count.total}" if count.total else f"{count.done}"
        self.note(f"{name}: " + ", ".join(filter(None, (of_total, count.to_go, _peak()))))

    def _done(self, name: str, seconds: float) -> None:
        self.note(f"{name}: done in {format_duration(seconds)}, {_peak()}")


class EventProgress(_LineProgress):
    """A line of JSON for each event, for programs: its members are those of ``docs/exit-codes.md``."""

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        interval_s: float = EVENT_INTERVAL_S,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        super().__init__(stream, interval_s, clock)

    def note(self, text: str) -> None:
        """A line that has a text."""
        self._say("note", text=printable(text))

    def _started(self, name: str, total: int | None) -> None:
        self._say("step_started", step=name, total=total)

    def _under_way(self, name: str, count: _Count) -> None:
        left = None if count.to_go_s is None else round(count.to_go_s, 3)
        self._say("step_progress", step=name, done=count.done, total=count.total, to_go_seconds=left)

    def _done(self, name: str, seconds: float) -> None:
        self._say("step_done", step=name, seconds=round(seconds, 3))

    def _say(self, event: str, **members: str | float | None) -> None:
        """Print one event in ASCII, whatever the locale; members that are None are left out."""
        known = {name: value for name, value in members.items() if value is not None}
        self._print(json.dumps({"event": event, **known, "peak_memory_bytes": peak_memory_bytes()}))


class LiveProgress:
    """A live bar per step, on a terminal. rich is imported only here: ``--help`` has no use for it."""

    def __init__(self, stream: TextIO | None = None) -> None:
        from rich.console import Console

        self._console = Console(file=stream if stream is not None else sys.stderr)

    def note(self, text: str) -> None:
        """One line above the bar."""
        self._console.print(printable(text), markup=False, highlight=False)

    @contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Step]:
        """A live bar with counts, time to go and peak memory."""
        from rich import progress as bars

        columns = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(),
            # rich forgets what is older than half a minute, which a stage of a large model may take.
            bars.TextColumn("{task.fields[to_go]}"),
            bars.TextColumn("{task.fields[peak]}"),
        )
        start = perf_counter()
        # redirect_* would send prints of libraries to this console one by one; stdout is not ours to touch.
        with bars.Progress(*columns, console=self._console, transient=True, redirect_stdout=False) as bar:
            task = bar.add_task(name, total=total, peak=_peak(), to_go="")
            yield _Count(total, lambda count: _show(bar, task, count))
        self.note(f"{name}: done in {format_duration(perf_counter() - start)}, {_peak()}")


def _show(bar: RichBar, task: TaskID, count: _Count) -> None:
    bar.update(task, completed=count.done, total=count.total, peak=_peak(), to_go=count.to_go)


def make_progress(stream: TextIO | None = None, *, quiet: bool = False, as_json: bool = False) -> Progress:
    """Live on a terminal, plain lines elsewhere, events with ``as_json``, silent when ``quiet``."""
    stream = stream if stream is not None else sys.stderr
    if quiet:
        return SilentProgress()
    if as_json:
        return EventProgress(stream)
    return LiveProgress(stream) if stream.isatty() else PlainProgress(stream)
