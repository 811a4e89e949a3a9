"""What every backend has to keep, whichever it is: the contract of runtimes/base.py."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.scheme import SCHEMES
from vggt_edge.devices.errors import InputError, ToolchainError, UnknownNameError, VggtEdgeError
from vggt_edge.devices.profile import list_profiles, load_profile
from vggt_edge.runtimes import all_backends, backend, backends
from vggt_edge.runtimes.base import AnnotatedGraph, Backend, Options, Session
from vggt_edge.runtimes.registry import subject_titles
from vggt_edge.runtimes.tensorrt import plan_audit

Write = Callable[..., Path]
Annotated = Callable[..., AnnotatedGraph]
Plan = Callable[..., PrecisionPlan]
# Schemes that a backend holds exactly, where they are not those of the others.
HELD = {"executorch": ("w8a8d", "w4a8d", "w8a8d"), "vulkan": ("fp16", "w4a16", "fp16")}
ALL = pytest.mark.parametrize("one", all_backends(), ids=lambda one: one.name)
SOURCE = Path(__file__).resolve().parents[2] / "runtimes"


def test_every_module_of_the_folder_is_found_under_its_own_name() -> None:
    files = {path.stem for path in SOURCE.glob("*.py")} | {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    expected = {name for name in files if not name.startswith("_")} - {"base", "common", "registry"}
    assert set(backends()) == expected
    assert [one.name for one in all_backends()] == sorted(expected)
    assert all(name == one.name for name, one in backends().items())


def test_an_unknown_runtime_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="tensorflow") as caught:
        backend("tensorflow")
    assert "onnxruntime" in str(caught.value)
    assert "tensorrt" in str(caught.value)


def test_listing_the_backends_imports_neither_torch_nor_scipy_nor_an_sdk() -> None:
    """`vggt-edge targets` must answer at once, and must work without any SDK."""
    code = (
        "import sys; from vggt_edge.runtimes import all_backends; all_backends();"
        "sdks = {'onnxruntime', 'tensorrt', 'tensorrt_rtx_bindings', 'coremltools', 'coreai', 'coreai_torch'};"
        "sdks.add('executorch');"
        "print(sorted({'torch', 'scipy', *sdks} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@ALL
def test_availability_gives_a_reason_and_a_remedy_when_it_says_no(one: Backend) -> None:
    state = one.availability()
    assert state.ok or (state.reason and state.remedy)


@ALL
def test_each_backend_declares_what_the_exporter_asks_of_it(one: Backend) -> None:
    """Titles for people, packages that exist on the index under that name, rates above zero."""
    assert one.title
    assert one.distributions
    assert set(one.supported) <= set(SCHEMES)
    assert one.options <= {field.name for field in fields(Options)}
    assert one.rates.bytes_per_s > 0
    here = {executor.subject for executor in one.executors()}
    assert here <= set(subject_titles())
    assert one.device_subject in set(subject_titles()) - here
    profile = load_profile("host-cpu")
    assert profile.title in one.on_device(profile) or not one.on_device(profile)


@ALL
def test_the_versions_of_what_takes_part_are_recorded(one: Backend) -> None:
    """Every requirement of the extra that brings the backend is one of its distributions."""
    extras = {"tensorrt": "jetson", "coreml": "apple", "coreai": "coreai", "executorch": "android", "vulkan": "android"}
    required = [Requirement(text) for text in metadata.requires("vggt-edge") or ()]
    wanted = {each.name for each in required if f'extra == "{extras.get(one.name)}"' in str(each.marker)}
    assert wanted <= set(one.distributions)
    assert wanted or one.name == "onnxruntime"


@ALL
def test_schemes_are_known_and_a_subset_of_the_profile_in_its_order(one: Backend) -> None:
    for profile in list_profiles():
        schemes = one.schemes(profile)
        assert set(schemes) <= set(SCHEMES)
        assert list(schemes) == [name for name in profile.runnable if name in schemes]


@ALL
def test_lowering_realises_the_plan_block_by_block(
    one: Backend, write_mini: Write, annotated: Annotated, make_plan: Plan, tmp_path: Path
) -> None:
    skip_without(one)
    schemes = HELD.get(one.name, ("w8a8", "w4a16", "w8a8"))
    graph = annotated(write_mini(*schemes), *schemes)
    lowered = one.lower(graph, make_plan(*schemes), load_profile("jetson-orin"), tmp_path / "out")
    for session in sessions(one, graph.onnx_path.parent if one.name == "onnxruntime" else tmp_path / "out"):
        refuses_what_is_not_its_input(session)
    assert lowered.backend == one.name
    assert [(entry.block, entry.asked, entry.realised) for entry in lowered.realised] == [
        (block, scheme, scheme) for block, scheme in zip(graph.blocks, schemes, strict=True)
    ]
    assert lowered.files
    assert not any(Path(name).is_absolute() or ".." in Path(name).parts for name in lowered.files)
    # What a compiler widens of this hand-made graph is the audit's to say: tests/runtimes/tensorrt/test_plan_audit.py.
    lowering = [check for check in lowered.checks if check.name != plan_audit.NAME]
    assert [check for check in lowering if check.status not in ("passed", "not_run")] == []
    assert all(check.detail for check in lowered.checks)


@ALL
def test_a_block_that_did_not_get_its_precision_is_an_error_that_names_it(
    one: Backend, write_mini: Write, annotated: Annotated, make_plan: Plan, tmp_path: Path
) -> None:
    skip_without(one)
    wide, narrow, asked = ("fp32", "w4a8d", "w8a8d") if one.name == "executorch" else ("fp16", "w4a16", "w8a8")
    schemes = (wide, narrow, wide)
    graph = annotated(write_mini(*schemes), *schemes)
    with pytest.raises(VggtEdgeError, match=rf"frame_blocks\.0.*asked {asked}.*{wide}") as caught:
        one.lower(graph, make_plan(asked, narrow, wide), load_profile("jetson-orin"), tmp_path / "out")
    assert caught.value.exit_code == 6


@ALL
def test_opening_what_is_not_a_bundle_is_one_clear_error(one: Backend, tmp_path: Path) -> None:
    with pytest.raises((InputError, ToolchainError)):
        one.open(tmp_path)


def sessions(one: Backend, bundle: Path) -> Iterator[Session]:
    """Everything that runs the artifact on this machine."""
    for start in (one.open, *(executor.open for executor in one.executors())):
        with suppress(ToolchainError):
            yield start(bundle)


def refuses_what_is_not_its_input(session: Session) -> None:
    """Native code would compute with NaN, read beyond an array that is too short, or crash."""
    ((name, shape),) = session.input_shapes.items()
    right = np.zeros(shape, np.float32)
    holed = right.copy()
    holed.flat[-1] = np.nan
    for inputs, message in (
        ({}, "wrong inputs: none"),
        ({name: right, "more": right}, "wrong inputs"),
        ({name: right[..., :-1]}, f"input {name} is float32"),
        ({name: right.astype(np.float64)}, f"input {name} is float64"),
        ({name: holed}, f"input {name} holds NaN or Inf"),
        ({name: right - np.inf}, f"input {name} holds NaN or Inf"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            session.run(inputs)
        assert caught.value.where == session.where
    assert session.run({name: right})


def skip_without(one: Backend) -> None:
    state = one.availability()
    if not state.ok:
        pytest.skip(f"{one.name}: {state.reason}")
