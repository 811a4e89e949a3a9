"""Running a program in its worker, and what is wrong with one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vggt_edge.devices.errors import InputError, ResourceError, ToolchainError, VggtEdgeError
from vggt_edge.runtimes.executorch.assemble import assemble
from vggt_edge.runtimes.executorch.files import MODEL_FILE, PROGRAM, WEIGHTS
from vggt_edge.runtimes.executorch.model_file import Border, write_model_file
from vggt_edge.runtimes.executorch.pieces import cut
from vggt_edge.runtimes.executorch.process import Worker
from vggt_edge.runtimes.executorch.sdk import installed
from vggt_edge.runtimes.executorch.session import ExecuTorchSession
from vggt_edge.runtimes.executorch.xnnpack import lower_pieces

pytestmark = pytest.mark.skipif(not installed(), reason="ExecuTorch is not installed")
X = np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)


def write_program(folder: Path, *, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    model, x = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.from_numpy(X)
    with torch.no_grad():
        pieces = cut(torch.export.export(model, (x,), strict=False), lambda path: "")
    made = assemble(pieces, lower_pieces(pieces.pieces), x, external=True)
    folder.mkdir()
    with (folder / PROGRAM).open("wb") as stream:
        made.manager.write_to_file(stream)
    made.manager.write_tensor_data_to_file(str(folder))
    write_model_file(folder, (Border("x", (3, 8)),), (Border("y", (3, 4)),), made.planned_bytes)
    return folder


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two exports of the same shapes and other weights."""
    folder = tmp_path_factory.mktemp("programs")
    return write_program(folder / "one"), write_program(folder / "other", seed=1)


@pytest.fixture
def program(programs: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(programs[0], tmp_path / "executorch"))


def vouch(folder: Path) -> None:
    """Give files that were tampered with the checksums that they have now, so that native code gets to see them."""
    content = json.loads((folder / MODEL_FILE).read_text())
    borders = {
        name: tuple(Border(one["name"], tuple(one["shape"])) for one in content[name]) for name in ("inputs", "outputs")
    }
    write_model_file(folder, borders["inputs"], borders["outputs"], 0)


def test_it_runs_again_and_again_in_one_process(program: Path) -> None:
    """The same bits, and times of every repetition."""
    session = ExecuTorchSession(program)
    first, second = session.measure({"x": X}, repeats=3), session.measure({"x": X})
    np.testing.assert_array_equal(first.outputs["y"], second.outputs["y"])
    assert len(first.seconds) == 3
    assert min(first.seconds) > 0
    assert first.peak_memory_bytes > 1e6
    assert session.threads >= 1
    assert session.input_shapes == {"x": (3, 8)}


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        ({}, "wrong inputs: none"),
        ({"y": X}, "wrong inputs: y"),
        ({"x": X[:2]}, r"float32 \(2, 8\)"),
        ({"x": X.astype(np.float64)}, "float64"),
        ({"x": np.full_like(X, np.nan)}, "NaN or Inf"),
    ],
)
def test_wrong_inputs_are_refused_and_the_session_goes_on(
    program: Path, inputs: dict[str, np.ndarray], match: str
) -> None:
    """Before native code sees them: it would read beyond a tensor that is too small."""
    session = ExecuTorchSession(program)
    with pytest.raises(InputError, match=match):
        session.run(inputs)
    assert session.run({"x": X})["y"].shape == (3, 4)


@pytest.mark.parametrize("name", [PROGRAM, WEIGHTS])
@pytest.mark.parametrize("share", [0.0, 0.99])
def test_a_file_that_is_cut_short_is_told_by_its_checksum(program: Path, name: str, share: float) -> None:
    """Whatever is left of it."""
    content = (program / name).read_bytes()
    (program / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=rf"{name} is damaged, cut short, or of another model"):
        ExecuTorchSession(program)


def test_weights_of_another_model_are_told_by_their_checksum(programs: tuple[Path, Path], program: Path) -> None:
    """They have the same size and shapes."""
    shutil.copy(programs[1] / WEIGHTS, program / WEIGHTS)
    with pytest.raises(InputError, match=rf"{WEIGHTS} is .* of another model"):
        ExecuTorchSession(program)


def test_missing_files_are_named(program: Path) -> None:
    """One after the other."""
    (program / WEIGHTS).unlink()
    with pytest.raises(InputError, match="the weights are missing"):
        ExecuTorchSession(program)
    (program / PROGRAM).unlink()
    with pytest.raises(InputError, match="the program is missing"):
        ExecuTorchSession(program)
    with pytest.raises(InputError, match=rf"cannot use {MODEL_FILE}"):
        ExecuTorchSession(program / "nowhere")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema_version": 2}', "[" * 100_000, '{"schema_version": 1}'])
def test_a_description_that_is_none_is_refused(program: Path, content: str) -> None:
    """Hostile JSON included."""
    (program / MODEL_FILE).write_text(content)
    with pytest.raises(InputError, match=rf"cannot use {MODEL_FILE}"):
        ExecuTorchSession(program)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_native_code_may_refuse_or_crash_on_a_broken_program_and_we_go_on(program: Path, share: float) -> None:
    """With a checksum that vouches for it."""
    content = (program / PROGRAM).read_bytes()
    (program / PROGRAM).write_bytes(content[: int(len(content) * share)])
    vouch(program)
    with pytest.raises((InputError, ToolchainError)):
        ExecuTorchSession(program).run({"x": X})


@pytest.mark.parametrize("seed", range(3))
def test_noise_in_a_program_ends_in_an_error_or_in_numbers(program: Path, seed: int) -> None:
    """Never in the end of this process."""
    random = np.random.default_rng(seed)
    content = np.frombuffer((program / PROGRAM).read_bytes(), np.uint8).copy()
    content[random.integers(0, len(content), 60)] = random.integers(0, 256, 60)
    (program / PROGRAM).write_bytes(content.tobytes())
    vouch(program)
    try:
        assert set(ExecuTorchSession(program, timeout_s=60.0).run({"x": X})) == {"y"}
    except VggtEdgeError as error:
        assert error.exit_code in (3, 7, 8) or error.remedy  # noqa: PT017  either end is fine


def test_weights_of_another_model_are_refused_by_native_code_too(programs: tuple[Path, Path], program: Path) -> None:
    """The program names its weights by what is in them."""
    shutil.copy(programs[1] / WEIGHTS, program / WEIGHTS)
    vouch(program)
    with pytest.raises((InputError, ToolchainError)):
        ExecuTorchSession(program).run({"x": X})


def test_a_worker_that_dies_is_reported_with_its_signal(program: Path) -> None:
    """And the next run says so again, instead of waiting."""
    session = ExecuTorchSession(program)
    os.kill(session._worker._server._process.pid, signal.SIGSEGV)
    with pytest.raises(ToolchainError, match="SIGSEGV"):
        session.run({"x": X})


def test_a_worker_that_was_killed_is_taken_for_want_of_memory(program: Path) -> None:
    """As the kernel does it."""
    session = ExecuTorchSession(program)
    os.kill(session._worker._server._process.pid, signal.SIGKILL)
    with pytest.raises(ResourceError, match="memory"):
        session.run({"x": X})


def test_a_worker_that_hangs_is_ended(program: Path) -> None:
    """After its time limit."""
    began = time.perf_counter()
    with pytest.raises(ResourceError, match="no result after"):
        Worker(program / PROGRAM, program / WEIGHTS, timeout_s=0.05)
    assert time.perf_counter() - began < 20
