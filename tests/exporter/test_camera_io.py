"""``export --fuse-io``: a bundle whose second graph takes camera frames, judged here and described for the device."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vggt_edge.calibration.scenes.camera import CameraFrames
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.exporter.request import ExportRequest, resolve_request, to_toml
from vggt_edge.exporter.steps.camera import camera_rows
from vggt_edge.exporter.steps.inputs import camera_frames, enlarged
from vggt_edge.exporter.validation import Status
from vggt_edge.runtimes.base import CameraRun
from vggt_edge.runtimes.tensorrt.engine import kit_module

Run = Callable[..., object]
SMALL = ("--effort", "none", "--precision", "fp16", "--calibration-scenes", "1", "--validation-scenes", "1",
    "--frames", "2", "--resolution", "28x42")  # fmt: skip


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--target", "jetson-orin", "--fuse-io", "1920x1080"), 2, "FORMAT:WIDTHxHEIGHT"),
        (("--target", "jetson-orin", "--fuse-io", "nv12:641x480"), 2, "even"),
        (("--target", "ios-ar", "--fuse-io", "rgb:640x480"), 2, "--fuse-io"),
        (("--target", "jetson-orin", "--fuse-io", "rgb:480x1920", *SMALL), 2, "--resolution"),
    ],
    ids=["form", "odd", "not TensorRT", "aspect ratio"],
)
def test_what_cannot_be_is_refused_before_any_work(
    vggt_edge: Run, tmp_path: Path, options: tuple[str, ...], code: int, said: str
) -> None:
    finished = vggt_edge("export", *options, "-o", tmp_path / "out")
    assert finished.code == code, finished.err  # type: ignore[attr-defined]
    assert said in finished.err  # type: ignore[attr-defined]
    assert not (tmp_path / "out").exists()


def test_it_is_a_part_of_the_configuration(tmp_path: Path) -> None:
    request = resolve_request({"fuse_io": " NV12:1920x1080"})
    assert request.fuse_io == "nv12:1920x1080"
    (tmp_path / "resolved.toml").write_text(to_toml(request))
    assert resolve_request({}, (), tmp_path / "resolved.toml") == request


def test_frames_of_a_room_and_of_a_golden_scene_have_the_camera_s_size() -> None:
    frames = camera_frames(ExportRequest(fuse_io="rgb:64x48"), None, 2)
    assert (frames.shape, frames.dtype) == ((2, 48, 64, 3), np.uint8)
    assert frames.std() > 10
    assert frames.flags.c_contiguous
    scene = Scene("golden", np.full((2, 3, 28, 42), 0.5, np.float32), ("golden",))
    assert np.array_equal(enlarged(scene, (48, 64)), np.full((2, 48, 64, 3), 128, np.uint8))


def rows(fused: dict[str, np.ndarray], limit: float | None = 25.0) -> dict[tuple[str, str], object]:
    """Status of each row by output and reference, for a program that should give ones."""
    ones = {
        "images": np.ones((1, 2, 3, 4, 4)),
        "depth": np.ones((1, 2, 4, 4)),
        "world_points": np.ones((1, 2, 4, 4, 3)),
    }
    given = {name: values.astype(np.float32) for name, values in (ones | fused).items()}
    apart = {name: ones[name] for name in ("depth", "world_points")}
    staged = {name: ones[name] for name in ("images", "world_points")}
    ran = CameraRun("tensorrt-fused", "tensorrt-fp16", given, apart, staged)  # type: ignore[arg-type]
    job = SimpleNamespace(
        camera=CameraFrames.parse("rgb:64x48"),
        scenes=SimpleNamespace(camera=np.zeros((2, 48, 64, 3), np.uint8)),
        timed=lambda *_: nullcontext(),
        backend=SimpleNamespace(run_camera=lambda *_: ran),
        model=SimpleNamespace(outputs=()),
        profile=SimpleNamespace(tolerances=SimpleNamespace(backend_sqnr_db_min=limit)),
    )
    return {(row.output, row.against): row.status for row in camera_rows(job, Path())}  # type: ignore[arg-type]


def test_every_stage_is_gated_by_itself() -> None:
    """The gate of a stage sees faults that the model's tolerance hides, such as rays half a pixel off."""
    assert set(rows({}).values()) == {Status.PASSED}
    off = rows({"world_points": np.full((1, 2, 4, 4, 3), 1.001)})
    assert off["world_points", "tensorrt-fp16"] is Status.PASSED
    assert off["world_points", "numpy"] is Status.FAILED
    assert rows({"images": np.full((1, 2, 3, 4, 4), 0.99)})["images", "numpy"] is Status.FAILED
    assert rows({"depth": np.full((1, 2, 4, 4), 2.0)})["depth", "tensorrt-fp16"] is Status.FAILED
    assert rows({"depth": np.full((1, 2, 4, 4), np.nan)})["depth", "tensorrt-fp16"] is Status.FAILED
    assert rows({}, limit=None)["depth", "tensorrt-fp16"] is Status.NOT_RUN


@pytest.mark.slow
def test_a_bundle_ships_the_graph_its_goldens_and_its_verdict(vggt_edge: Run, tmp_path: Path) -> None:
    bundle = tmp_path / "out"
    finished = vggt_edge("export", "--target", "jetson-orin", *SMALL, "--fuse-io", "rgb:96x64", "-o", bundle)
    assert (bundle / "tensorrt" / "fused.onnx").is_file(), finished.err  # type: ignore[attr-defined]
    judged = [row for row in json.loads((bundle / "validation.json").read_text())["rows"] if "fused" in row["subject"]]
    assert {row["status"] for row in judged} == {"passed"}
    assert {row["output"] for row in judged} > {"images", "extrinsics", "intrinsics", "world_points", "depth_conf"}
    names = [check["name"] for check in json.loads((bundle / "lowered-tensorrt.json").read_text())["checks"]]
    assert "TensorRT for RTX, fused.onnx" in names
    kit = kit_module()
    inputs, expected, _ = kit.golden_of(bundle / "tensorrt", kit.fused_kit(kit.load_kit(bundle / "tensorrt")))
    assert (inputs["frames"].dtype, inputs["frames"].shape) == (np.uint8, (2, 64, 96, 3))
    assert list(expected)[:4] == ["extrinsics", "intrinsics", "world_points", "pose_enc"]
    assert expected["intrinsics"][0, 0, 0, 2] == 42 / 2
    assert 'fuse_io = "rgb:96x64"' in (bundle / "resolved.toml").read_text()
