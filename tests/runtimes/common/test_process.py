"""However the worker ends, we go on: each ending is a real process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from vggt_edge.devices.errors import LoweringError, ResourceError, ToolchainError, VggtEdgeError
from vggt_edge.runtimes.common import process
from vggt_edge.runtimes.common.process import Ending, Outcome, Server
from vggt_edge.runtimes.common.worker import PARENT


@pytest.mark.parametrize(
    ("code", "ending", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", Ending.CRASHED, "crashed with SIGSEGV"),
        ("import os; os.abort()", Ending.CRASHED, "crashed with SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", Ending.NO_MEMORY, "want of memory"),
        ("import time; time.sleep(60)", Ending.NO_TIME, "no result after 0.5 s"),
        ("raise RuntimeError('the library is broken')", Ending.CRASHED, "the library is broken"),
        ("pass", Ending.CRASHED, "ended with 0"),
        ("print('[1, 2]')", Ending.CRASHED, "ended with 0"),
        ("""print('{"error": "not this"}')""", Ending.REFUSED, "not this"),
    ],
)
def test_however_the_worker_ends_we_go_on(code: str, ending: Ending, message: str) -> None:
    outcome = process.run_worker([sys.executable, "-c", code], 0.5 if "sleep" in code else 60)
    assert outcome.ending is ending
    assert message in outcome.detail
    assert outcome.answer is None


def test_a_worker_that_takes_more_memory_than_it_may_is_ended() -> None:
    code = "held = bytearray(300_000_000); import time; time.sleep(60)"
    outcome = process.run_worker([sys.executable, "-c", code], 60, memory_bytes=200_000_000)
    assert outcome.ending is Ending.NO_MEMORY
    assert outcome.detail == "took more than 0.2 GB of memory"


def test_a_long_answer_arrives_whole_below_a_limit_of_memory() -> None:
    """More than a pipe holds, in two parts."""
    code = "import time; print('{\"a\": \"' + 'x' * 200_000, flush=True, end=''); time.sleep(0.3); print('\"}')"
    outcome = process.run_worker([sys.executable, "-c", code], 60, memory_bytes=10**9)
    assert outcome.answer == {"a": "x" * 200_000}


@pytest.mark.parametrize(
    ("raised", "ending"),
    [
        ("OSError(errno.ENOSPC, 'no space', 'plan')", Ending.NO_ROOM),
        ("RuntimeError('write failed: No space left on device')", Ending.NO_ROOM),
        ("MemoryError()", Ending.NO_MEMORY),
        ("RuntimeError('std::bad_alloc')", Ending.NO_MEMORY),
        ("RuntimeError('no such operator')", Ending.REFUSED),
        ("OSError(errno.ENOENT, 'no such file')", Ending.REFUSED),
    ],
)
def test_want_of_room_and_memory_is_told_from_a_refusal(raised: str, ending: Ending) -> None:
    code = f"""
import errno
from vggt_edge.runtimes.common.worker import answer_once
def perform(arguments, answers):
    raise {raised}
answer_once(perform)
"""
    assert process.run_worker([sys.executable, "-c", code], 60).ending is ending


@pytest.mark.parametrize("after", ["", "import os; sys.stdout.flush(); os.abort()"])
def test_an_answer_is_taken_over_whatever_comes_after_it(after: str) -> None:
    """Native code has aborted while its process went down, with all its work done."""
    outcome = process.run_worker([sys.executable, "-c", f"""import sys; print('{{"seconds": 1.5}}'); {after}"""], 60)
    assert (outcome.ending, outcome.answer) == (Ending.ANSWERED, {"seconds": 1.5})


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        (Ending.REFUSED, LoweringError),
        (Ending.CRASHED, ToolchainError),
        (Ending.NO_MEMORY, ResourceError),
        (Ending.NO_TIME, ResourceError),
        (Ending.NO_ROOM, ResourceError),
    ],
)
def test_each_ending_has_its_error(ending: Ending, kind: type[VggtEdgeError]) -> None:
    error = Outcome(ending, "why").error("did not work", "there", LoweringError, "do this")
    assert type(error) is kind
    assert error.what == "did not work: why"
    assert error.where == "there"
    assert error.remedy


ECHO = """
import sys
from vggt_edge.runtimes.common.worker import serve

def start(arguments):
    print("noise of a library")
    print("a word of native code", file=sys.stderr, flush=True)
    def handle(request):
        if request == {"do": "refuse"}:
            raise ValueError("not that")
        return {"echo": request}
    return {"ready": arguments}, handle

serve(start)
"""


def server(code: str = ECHO, timeout_s: float = 60.0) -> Server:
    return Server([sys.executable, "-c", code, "argument"], timeout_s)


def test_a_server_answers_again_and_again_until_it_refuses() -> None:
    one = server()
    assert one.answer().answer == {"ready": ["argument"]}
    assert one.ask({"n": 1}).answer == {"echo": {"n": 1}}
    assert one.ask({"n": 2}).answer == {"echo": {"n": 2}}
    assert "a word of native code" in one.log()
    refused = one.ask({"do": "refuse"})
    assert (refused.ending, refused.detail) == (Ending.REFUSED, "ValueError: not that")
    one.close()


@pytest.mark.parametrize(("number", "ending"), [(signal.SIGSEGV, Ending.CRASHED), (signal.SIGKILL, Ending.NO_MEMORY)])
def test_a_server_that_dies_is_told_from_one_that_was_killed(number: int, ending: Ending) -> None:
    one = server()
    one.answer()
    os.kill(one._process.pid, number)
    assert one.ask({}).ending is ending


def test_a_server_that_hangs_is_ended() -> None:
    one = server("import time; time.sleep(60)", timeout_s=0.2)
    began = time.perf_counter()
    assert one.answer().ending is Ending.NO_TIME
    assert one._process.poll() is not None
    assert time.perf_counter() - began < 20


@pytest.mark.parametrize("line", ["[1]", "not JSON"])
def test_a_server_that_says_something_else_counts_as_crashed(line: str) -> None:
    assert server(f"print({line!r})").answer().ending is Ending.CRASHED


def lives(parent: int) -> bool:
    """Whether a worker stays whose starter had this number, and was this process or is gone."""
    code = "from vggt_edge.runtimes.common.worker import end_with_parent; end_with_parent(); print('lives')"
    told = {**os.environ, PARENT: str(parent)}
    finished = subprocess.run([sys.executable, "-c", code], env=told, capture_output=True, text=True)
    return finished.stdout == "lives\n"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a process with its parent")
def test_a_worker_does_not_outlive_a_parent_that_was_killed_before_the_worker_had_started() -> None:
    """Its parent is init by then, which it must not take for the one that started it."""
    with subprocess.Popen([sys.executable, "-c", "pass"]) as gone:
        pass
    assert lives(os.getpid())
    assert not lives(gone.pid)


def test_every_worker_is_told_its_parent() -> None:
    code = f"import json, os; print(json.dumps({{'parent': os.environ['{PARENT}'], 'set': os.environ.get('SET')}}))"
    command = [sys.executable, "-c", code]
    answers = [process.run_worker(command, 60), process.run_worker(command, 60, environment={"SET": "1"})]
    answers.append(Server(command, 60).answer())
    assert [one.answer for one in answers] == [{"parent": str(os.getpid()), "set": set_} for set_ in (None, "1", None)]
