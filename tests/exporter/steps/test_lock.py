"""Two processes never write one output, and a dead one holds nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vggt_edge.devices.errors import UsageError
from vggt_edge.exporter.steps.lock import output_lock

HOLDER = """
import sys, time
from pathlib import Path
from vggt_edge.exporter.steps.lock import output_lock
with output_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_process_is_told_until_the_first_has_ended(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", HOLDER, out], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match="another vggt-edge process"), output_lock(out):
            pytest.fail("two at once")
        holder.send_signal(signal.SIGKILL)
    with output_lock(out):
        assert [path.name for path in tmp_path.iterdir()] == [".out.lock"]
    assert list(tmp_path.iterdir()) == []


def test_other_outputs_are_free_and_folders_go_again(tmp_path: Path) -> None:
    with output_lock(tmp_path / "runs" / "a"), output_lock(tmp_path / "runs" / "b"):
        pass
    assert list(tmp_path.iterdir()) == []
    with output_lock(tmp_path / "runs" / "a"):
        (tmp_path / "runs" / "a").mkdir()
    assert [path.name for path in tmp_path.rglob("*")] == ["runs", "a"]
