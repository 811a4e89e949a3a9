"""The entry for programs: the names of the documentation, and a calibration made with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import vggt_edge.exporter as library


def test_every_public_name_is_there_and_no_other() -> None:
    for name in library.__all__:
        assert getattr(library, name).__module__.startswith("vggt_edge."), name
    assert set(library.__all__) <= set(dir(library))
    with pytest.raises(AttributeError, match="no attribute 'exports'"):
        library.exports  # noqa: B018


def test_the_name_alone_imports_nothing_heavy() -> None:
    program = (
        "import sys, vggt_edge.exporter; from vggt_edge.exporter import ExportRequest; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_program_calibrates_without_a_word(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    request = library.ExportRequest(
        target="host-cpu",
        frames=1,
        resolution=42,
        outputs=("camera",),
        calibration_scenes=1,
        effort="none",
        output=tmp_path / "out",
    )
    result = library.calibrate(request)
    assert result.output == tmp_path / "out"
    assert (tmp_path / "out" / "stats.json").is_file()
    assert capfd.readouterr() == ("", "")
    with pytest.raises(library.UsageError, match="exists already"):
        library.calibrate(request)
