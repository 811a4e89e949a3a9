"""What was freed between other allocations goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
