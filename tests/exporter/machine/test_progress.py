"""Plain lines are few and complete, a live bar shows only on a terminal, and stdout stays clean."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vggt_edge.exporter.machine.progress import (
    EventProgress,
    LiveProgress,
    PlainProgress,
    SilentProgress,
    eta_seconds,
    format_duration,
    make_progress,
    peak_memory_bytes,
)


class Clock:
    """A clock that moves only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def read_all(controller: int) -> str:
    """All that a closed terminal was sent; one read may return only a part of it."""
    chunks = []
    with contextlib.suppress(OSError):  # Linux reports the end of a terminal as an input/output error
        while chunk := os.read(controller, 1 << 16):
            chunks.append(chunk)
    os.close(controller)
    return b"".join(chunks).decode()


def test_plain_lines_tell_of_beginning_pace_and_end() -> None:
    stream, clock = io.StringIO(), Clock()
    with PlainProgress(stream, interval_s=5, clock=clock).step("calibrate", 8) as step:
        clock.now += 6
        step.advance(2)
    first, middle, last = stream.getvalue().splitlines()
    assert first == "calibrate ..."
    assert middle.startswith("calibrate: 2/8, 18.0 s to go, peak memory ")
    assert last.startswith("calibrate: done in 6.0 s, peak memory ")


def test_plain_lines_are_few() -> None:
    stream, clock = io.StringIO(), Clock()
    with PlainProgress(stream, interval_s=5, clock=clock).step("many", 1000) as step:
        for _ in range(1000):
            clock.now += 0.1
            step.advance()
    # 100 s at one line each 5 s, and the two at the ends.
    assert 15 <= len(stream.getvalue().splitlines()) <= 22


def test_a_step_of_unknown_length_has_no_eta() -> None:
    stream, clock = io.StringIO(), Clock()
    with PlainProgress(stream, interval_s=0, clock=clock).step("read") as step:
        step.advance(3)
    assert "read: 3, peak memory" in stream.getvalue()
    assert "to go" not in stream.getvalue()


def test_update_serves_as_a_callback() -> None:
    stream, clock = io.StringIO(), Clock()
    with PlainProgress(stream, interval_s=0, clock=clock).step("observe") as step:
        clock.now += 1
        step.update(1, 4)
    assert "observe: 1/4, 3.0 s to go" in stream.getvalue()


def test_a_resumed_step_takes_its_pace_from_what_is_left() -> None:
    stream, clock = io.StringIO(), Clock()
    with PlainProgress(stream, interval_s=0, clock=clock).step("calibrate", 78) as step:
        clock.now += 2
        step.update(41, 78)  # forty of them were done before
        clock.now += 3
        step.update(42, 78)
    _, first, second, _ = stream.getvalue().splitlines()
    assert "41/78, peak memory" in first
    assert "42/78, 1 min 48 s to go" in second


def test_a_step_that_was_all_done_before_ends_well() -> None:
    stream = io.StringIO()
    with PlainProgress(stream, interval_s=0).step("calibrate", 78) as step:
        step.update(78, 78)
    assert "calibrate: 78/78, peak memory" in stream.getvalue()


def test_a_step_that_fails_is_not_done() -> None:
    stream = io.StringIO()

    def fail() -> None:
        with PlainProgress(stream).step("lower"):
            raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        fail()
    assert "done" not in stream.getvalue()


def test_a_program_reads_events(fits: Callable[[str, object], None]) -> None:
    """In any locale; a second passes between two lines of progress."""
    stream, clock = io.StringIO(), Clock()
    progress = EventProgress(stream, clock=clock)
    progress.note("Größe\x1b[31m")
    with progress.step("tune", 4) as step:
        for done, seconds in ((1, 2.0), (2, 0.5), (3, 1.0)):
            clock.now += seconds
            step.update(done, 4)
    assert stream.getvalue().isascii()
    note, started, first, second, ended = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (note["event"], note["text"]) == ("note", r"Größe\x1b[31m")
    assert (started["event"], started["step"], started["total"]) == ("step_started", "tune", 4)
    assert (first["event"], first["done"], first["to_go_seconds"]) == ("step_progress", 1, 6.0)
    assert (second["done"], second["to_go_seconds"]) == (3, pytest.approx(3.5 / 3, abs=1e-3))
    assert (ended["event"], ended["step"], ended["seconds"]) == ("step_done", "tune", 3.5)
    for one in (note, started, first, second, ended):
        assert one["peak_memory_bytes"] > 1 << 20
        fits("event", one)


def test_the_choice_depends_on_the_terminal() -> None:
    assert isinstance(make_progress(io.StringIO()), PlainProgress)
    assert isinstance(make_progress(io.StringIO(), as_json=True), EventProgress)
    assert isinstance(make_progress(io.StringIO(), quiet=True), SilentProgress)
    controller, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as stream:
        assert isinstance(make_progress(stream), LiveProgress)
    os.close(controller)


def test_the_live_bar_ends_in_one_line() -> None:
    controller, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as stream, LiveProgress(stream).step("[plan]", 2) as step:
        step.advance()
        step.update(2, 2)
    shown = read_all(controller)
    assert "2/2" in shown
    assert "0.0 s to go" in shown
    assert "[plan]: done in" in shown


def test_nothing_reaches_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with make_progress().step("quiet", 1) as step:
        step.advance()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "quiet: done" in captured.err


def test_silence() -> None:
    with SilentProgress().step("nothing", 3) as step:
        step.advance()
        step.update(3, 3)


@given(
    elapsed_s=st.floats(1e-3, 1e6),
    done=st.integers(1, 10**6),
    total=st.integers(1, 10**6),
    initial=st.integers(0, 10**6),
)
def test_eta_is_never_negative_and_ends_at_zero(elapsed_s: float, done: int, total: int, initial: int) -> None:
    eta_s = eta_seconds(elapsed_s, done, total, initial % done)
    assert eta_s is not None
    assert eta_s >= 0
    assert (eta_s == 0) == (done >= total)


def test_eta_is_open_before_the_first_unit() -> None:
    assert eta_seconds(3, 0, 10) is None
    assert eta_seconds(3, 2, None) is None
    assert eta_seconds(3, 7, 10, initial=7) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.7, "1 h 00 min"),
        (3720, "1 h 02 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_peak_memory_is_in_bytes() -> None:
    """A Python process with pytest holds more than 10 MB and, here, less than 100 GB."""
    assert 10e6 < peak_memory_bytes() < 100e9
