"""Feeds damaged files to one reader and counts what comes of it.

A reader may take an input or refuse it with an error of the project. A fault is any other exception, more than
``LIMIT_S`` seconds of processor time, or more than ``LIMIT_MIB`` of memory for one input.
"""

from __future__ import annotations

import faulthandler
import io
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TypeAlias

from mutation import Mutator

from vggt_edge.runtimes.common.worker import forget_peak_memory, peak_memory_bytes, resident_bytes

LIMIT_S = 5.0
LIMIT_MIB = 500
# Waiting without computing, as for a pipe: then nothing but real time passes.
_LONGEST_WAIT_S = 60.0
_SHOWN_LINES = 3

Errors: TypeAlias = tuple[type[Exception], ...]


@dataclass(frozen=True)
class Target:
    """A reader to be fuzzed.

    - name: of the reader.
    - write: puts sound files into a folder.
    - read: reads the folder, and uses what was read as the exporter does.
    - mutators: by the file that is damaged, relative to the folder; a file may have several.
    - errors: what the reader may raise.
    - share: of the inputs that this target gets; below 1 for slow readers.
    """

    name: str
    write: Callable[[Path], None]
    read: Callable[[Path], object]
    mutators: Mapping[str, tuple[Mutator, ...]]
    errors: Errors
    share: float = 1.0


@dataclass(frozen=True)
class Fault:
    """A kind of fault: the error and the place that raised it. index: the first input that showed the fault."""

    kind: str
    index: int
    detail: str


@dataclass
class Count:
    """The results of the inputs of a target. slowest_s: processor time of the slowest input."""

    target: str
    inputs: int = 0
    taken: int = 0
    refused: int = 0
    faulty: int = 0
    slowest_s: float = 0.0
    faults: dict[str, Fault] = field(default_factory=dict)

    def add(self, kind: str, index: int, detail: str) -> None:
        """Count a faulty input; of each kind the first one is kept."""
        self.faulty += 1
        self.faults.setdefault(kind, Fault(kind, index, detail))


class TooSlow(BaseException):
    """The time of one input is over."""


def fuzz(target: Target, folder: Path, indices: range, seed: int = 0) -> Count:
    """Run the inputs of these numbers; ``folder`` is empty and of the target alone."""
    folder.mkdir(parents=True, exist_ok=True)
    target.write(folder)
    sound = {name: (folder / name).read_bytes() for name in target.mutators}
    with _silent():
        target.read(folder)
    count = Count(target.name)
    with _alarms():
        for index in indices:
            name, content = mutated(target, sound, index, seed)
            (folder / name).write_bytes(content)
            _run_one(target, folder, index, count)
            for other, whole in sound.items():  # a reader may have put another digest there
                (folder / other).write_bytes(whole)
    return count


def mutated(target: Target, sound: Mapping[str, bytes], index: int, seed: int) -> tuple[str, bytes]:
    """(file, its damaged content) of one input, which depends on nothing but the numbers."""
    random = Random(f"{target.name} {seed} {index}")
    name = random.choice(sorted(target.mutators))
    return name, random.choice(target.mutators[name])(random, sound[name])


def _run_one(target: Target, folder: Path, index: int, count: Count) -> None:
    count.inputs += 1
    forget_peak_memory()
    held, start = resident_bytes(), time.process_time()
    try:
        with _silent(), _limited():
            target.read(folder)
        count.taken += 1
    except target.errors:
        count.refused += 1
    except TooSlow as error:
        count.add(f"too slow at {_place(error)}", index, f"more than {LIMIT_S} s of computing, or stuck")
    except Exception as error:
        count.add(f"{type(error).__name__} at {_place(error)}", index, _tail(error))
    count.slowest_s = max(count.slowest_s, time.process_time() - start)
    taken_mib = peak_memory_bytes() - held >> 20
    if taken_mib > LIMIT_MIB:
        count.add("too much memory", index, f"{taken_mib} MiB")


def _place(error: BaseException) -> str:
    """The innermost line of the project itself."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/tests/fuzz/" not in frame.filename]
    own = [frame for frame in frames if "site-packages" not in frame.filename and "/lib/python" not in frame.filename]
    frame = (own or frames or traceback.extract_tb(error.__traceback__))[-1]
    return f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno}"


def _tail(error: Exception) -> str:
    return "\n".join(line[:300] for line in "".join(traceback.format_exception(error)).splitlines()[-_SHOWN_LINES:])


@contextmanager
def _silent() -> Iterator[None]:
    """Discard everything that a reader prints and warns of."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _alarms() -> Iterator[None]:
    """Turn the signals of both timers into ``TooSlow``; native code that never returns ends the process instead."""

    def stop(_number: int, _frame: object) -> None:
        raise TooSlow

    before = {number: signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _limited() -> Iterator[None]:
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    signal.setitimer(signal.ITIMER_REAL, _LONGEST_WAIT_S)
    faulthandler.dump_traceback_later(2 * _LONGEST_WAIT_S, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
