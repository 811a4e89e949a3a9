"""The doctor finds what is there, names what is not, and never imports a toolchain to find out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any

import pytest
from packaging.requirements import Requirement

from vggt_edge.devices.errors import UnknownNameError
from vggt_edge.exporter.machine.doctor import examine, package_finding
from vggt_edge.runtimes.executorch.sdk import installed


def test_an_installed_package_is_found_with_its_version() -> None:
    finding = package_finding(Requirement("pydantic>=2"))
    assert finding.ok
    assert finding.found == metadata.version("pydantic")


def test_a_missing_package_has_a_remedy() -> None:
    finding = package_finding(Requirement("vggt-edge-has-no-such-dependency>=1"))
    assert (finding.ok, finding.needed, finding.state) == (False, True, "missing")
    assert "pip install" in finding.remedy


def test_a_wrong_version_is_missing_too() -> None:
    finding = package_finding(Requirement("pydantic<1"))
    assert not finding.ok
    assert metadata.version("pydantic") in finding.found
    assert "<1" in finding.found


def test_what_an_extra_brings_is_optional() -> None:
    finding = package_finding(Requirement("vggt-edge-has-no-such-dependency"), extra="jetson")
    assert finding.state == "optional"
    assert "vggt-edge[jetson]" in finding.remedy


def test_every_dependency_of_the_package_is_looked_at() -> None:
    subjects = [finding.subject for finding in examine()]
    wanted = {Requirement(text).name for text in metadata.requires("vggt-edge") or () if "extra ==" not in text}
    assert wanted <= set(subjects)
    assert len(subjects) == len(set(subjects))
    assert {"memory", "disk", "python"} <= set(subjects)


def test_the_target_s_backend_is_needed() -> None:
    needed = {finding.subject for finding in examine("host-cpu") if finding.needed}
    assert "backend onnxruntime" in needed
    assert "backend tensorrt" not in needed


def test_what_android_needs_is_looked_at_by_its_version() -> None:
    """It is an extra, so that exports for other targets do without it."""
    (finding,) = (finding for finding in examine() if finding.subject == "executorch [android]")
    assert not finding.needed
    assert finding.ok == finding.found.startswith("1.4.")
    assert finding.ok or "vggt-edge[android]" in finding.remedy


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(UnknownNameError):
        examine("toaster")


def test_command_reports_and_exits_by_what_is_needed(vggt_edge: Callable[..., Any]) -> None:
    finished = vggt_edge("doctor", "--json")
    findings = finished.document["findings"]
    complete = all(finding["ok"] for finding in findings if finding["needed"])
    assert finished.code == finished.document["exit_code"] == (0 if complete else 3)


@pytest.mark.skipif(not installed(), reason="the extra android is not installed")
def test_the_emulation_of_a_phone_says_what_it_is_or_how_to_get_it() -> None:
    """It is an extra of ours that no package index has, so its own command stands there."""
    (finding,) = (finding for finding in examine() if finding.subject == "emulation arm")
    assert not finding.needed
    assert "64-bit ARM" in finding.found or finding.found.startswith("made for")
    assert finding.ok or finding.remedy


def test_nothing_of_qualcomm_is_imported() -> None:
    """Its module starts to fetch an SDK when it is imported."""
    program = "import sys; from vggt_edge.exporter.machine.doctor import examine; examine(); "
    program += "print([name for name in sys.modules if 'qualcomm' in name])"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"
