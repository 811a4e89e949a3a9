"""Memory that was freed between other allocations goes back to the system; held and available memory is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vggt_edge.runtimes.common.memory import available_memory_bytes, held_bytes

# Every second one stays, so that no end of the heap is free; each is below the size that glibc maps by itself.
_SCRIPT = """
from vggt_edge.runtimes.common.memory import give_back_memory
from vggt_edge.runtimes.common.worker import resident_bytes

held = [bytearray(100_000) for _ in range(2000)]
freed = held[::2]
del held[::2]
del freed
before = resident_bytes()
give_back_memory()
print(before - resident_bytes())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_returned() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 80_000_000


def test_what_children_hold_counts() -> None:
    before = held_bytes(os.getpid())
    code = "held = bytearray(100_000_000); print(); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert held_bytes(os.getpid()) > before + 90_000_000
        assert held_bytes(child.pid) > 90_000_000
        child.communicate(b"\n")
    assert held_bytes(child.pid) == 0


def control_group(folder: Path, limit: str, used: int, cached: int) -> Path:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\nactive_file {cached - 100}\ninactive_file 100\n")
    return folder


def test_the_limit_of_a_control_group_counts_and_cached_files_do_not(tmp_path: Path) -> None:
    group = control_group(tmp_path, "1000000", 900_000, 700_000)
    assert available_memory_bytes(group) == 1_000_000 - 900_000 + 700_000


@pytest.mark.parametrize("limit", ["max", "", str(1 << 62)])
def test_no_limit_leaves_what_the_machine_has(tmp_path: Path, limit: str) -> None:
    group = control_group(tmp_path, limit, 0, 200)
    assert available_memory_bytes(group) > 10e6
    assert available_memory_bytes(tmp_path / "none") > 10e6
