"""The process of a command: its standard streams and its signals, made safe before anything is printed or written."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALED = 128  # shells add the signal's number to this for the exit code
BROKEN_PIPE = SIGNALED + 13  # SIGPIPE, which Windows does not define
_ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Terminated(BaseException):
    """Another process asked this one to end. Like ``KeyboardInterrupt``, no handler of ordinary errors catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)

    @property
    def exit_code(self) -> int:
        """128 and the signal's number, as shells report it: 143 for SIGTERM."""
        return SIGNALED + self.signal.value


@contextmanager
def signals_raise() -> Iterator[None]:
    """SIGTERM and SIGHUP raise ``Terminated`` in the main thread, so that children end and nothing half-written stays.

    Later signals of that kind are ignored: the clean-up is not to be interrupted by an impatient supervisor. SIGINT
    raises ``KeyboardInterrupt``, as always. ``asked_to_end`` knows of both.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may ask for signals
        return
    _asked.clear()
    # A parent that ignores SIGHUP (nohup) wants the job to go on; so does a shell that ignores SIGINT.
    handled = [one for one in (signal.SIGINT, *_ENDING) if signal.getsignal(one) is not signal.SIG_IGN]
    previous = {one: signal.signal(one, _end) for one in handled}
    try:
        yield
    finally:
        _asked.clear()
        for one, handler in previous.items():
            signal.signal(one, handler)


_asked: list[KeyboardInterrupt | Terminated] = []


def _end(number: int, _frame: FrameType | None) -> None:
    if number == signal.SIGINT:
        _asked.append(KeyboardInterrupt())
    else:
        _asked.append(Terminated(number))
        for ending in _ENDING:
            signal.signal(ending, signal.SIG_IGN)
    raise _asked[-1]


def asked_to_end() -> KeyboardInterrupt | Terminated | None:
    """The exception that the first signal to this command raised; None while there was none.

    It was raised wherever the process was. A library may have swallowed it or made another error of it, as one does
    whose import is interrupted.
    """
    return _asked[0] if _asked else None


def end_if_asked() -> None:
    """Raise what a signal raised once more, should a library have swallowed it."""
    if (end := asked_to_end()) is not None:
        raise end


def ignore_signals() -> None:
    """Let only SIGKILL end the process from now on: the work is done, and the exit code has to say so.

    Libraries take up to a second to end, in which a signal would make a failure of it.
    """
    for one in (signal.SIGINT, *_ENDING):
        signal.signal(one, signal.SIG_IGN)


def prepare_streams() -> None:
    """Make stdin, stdout and stderr usable, however the process was started.

    - A descriptor that is closed becomes the null device. Else the next file that is opened would get its number, and
      whatever native code prints would be written into that file.
    - Text that the locale cannot encode is escaped: an umlaut in a path must not end a job after its work is done.
    - What stderr does not take is dropped: progress that nobody can read is no reason to stop.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    encoding = sys.stderr.encoding if sys.stderr is not None else None
    sys.stderr = io.TextIOWrapper(
        _Lossy(2, "w", closefd=False), encoding, errors="backslashreplace", line_buffering=True, write_through=True
    )


def make_no_compiler_folder() -> None:
    """Keep torch from making a folder for compiled code among the temporary files: nothing here is compiled by it.

    It makes one as soon as it is imported, where that does not exist yet.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", tempfile.gettempdir())


class _Lossy(io.FileIO):
    """A file that takes everything, also what it cannot write."""

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]  # whatever a buffer may hand over
        except OSError:
            return memoryview(data).nbytes  # type: ignore[arg-type]


def flush_stdout() -> OSError | None:
    """Write what was printed. The error, if the stream does not take it; it is then closed for good.

    Without this the interpreter finds out while it shuts down, prints a traceback and exits with 120.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        _discard_stdout()
        return error
    return None


def _discard_stdout() -> None:
    with suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)


def is_broken_pipe(error: OSError) -> bool:
    """Whether the reader of a pipe has gone, as ``head`` does when it has seen enough."""
    return error.errno == errno.EPIPE
