"""The most memory that an export held, its helpers included."""

from __future__ import annotations

import subprocess
import sys

from vggt_edge.exporter.machine import progress
from vggt_edge.exporter.machine.usage import peak_memory_bytes


def test_peak_memory_is_that_of_the_largest_process() -> None:
    """A child that has ended counts, and what is shown while a step runs is the same figure."""
    wanted = peak_memory_bytes() + 200_000_000
    subprocess.run([sys.executable, "-c", f"bytearray({wanted}).count(1)"], check=True)
    assert wanted <= peak_memory_bytes() < 2 * wanted
    assert progress.peak_memory_bytes is peak_memory_bytes
