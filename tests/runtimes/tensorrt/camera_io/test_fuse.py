"""The fused graph computes what our preprocessing, the model and our geometry compute one after another."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vggt_edge.calibration.metrics.output import Output
from vggt_edge.calibration.metrics.quantities import Confidence, Depth, PoseEncoding
from vggt_edge.calibration.scenes.camera import FORMATS, CameraFrames
from vggt_edge.calibration.scenes.framing import FIT, Mode, PixelCenters, Preprocess, content_mask
from vggt_edge.devices.errors import LoweringError
from vggt_edge.runtimes.common.audit import load_onnx
from vggt_edge.runtimes.tensorrt.camera_io.fuse import decoded, fuse
from vggt_edge.runtimes.tensorrt.interpreter.session import GraphSession
from vggt_edge.runtimes.tensorrt.rules import violations

FRAMES, SIZE = 2, (28, 42)
DECLARED = (
    Output("pose_enc", "camera", PoseEncoding(), "pose"),
    Output("depth", "depth", Depth(), "depth"),
    Output("seen", "depth", Confidence(), "what the model saw"),
)


def frames_of(camera: CameraFrames, seed: int = 0) -> np.ndarray:
    """Noise on large shapes: edges in all directions, and flat parts."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: camera.height, : camera.width]
    waves = 110 + 90 * np.sin(rows / 5 + columns / 9 * rng.uniform(0.5, 2))[None, :, :, None]
    noise = rng.normal(0, 25, (FRAMES, camera.height, camera.width, 3))
    return np.clip(waves + noise, 0, 255).astype(np.uint8)


def run_onnx(path: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs in ONNX Runtime, with the inputs as they are."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def both(
    model: Path, camera: CameraFrames, seed: int = 0, rule: Preprocess = FIT, centers: PixelCenters = "half"
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(outputs of the fused graph, outputs of the model between our own pre- and postprocessing)."""
    arrays = camera.of_rgb(frames_of(camera, seed))
    fused = fuse(model, model.with_name("fused.onnx"), camera, DECLARED, rule, centers)
    images = camera.prepared(arrays, SIZE, rule)[None]
    return run_onnx(fused.path, arrays), decoded(run_onnx(model, {"images": images}), DECLARED, SIZE, centers)


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(width=st.integers(16, 150), height=st.integers(16, 150), seed=st.integers(0, 9))
def test_frames_of_any_size_give_the_same_pictures(
    write_model: Callable[..., Path], width: int, height: int, seed: int
) -> None:
    """float32 may round a tie the other way: at most one level, in few pixels."""
    fused, apart = both(write_model(), CameraFrames("rgb", width, height), seed)
    levels = np.abs(255 * (fused["seen"] - apart["seen"]))
    assert levels.max() < 1.01
    assert (levels > 0.5).mean() < 1e-3


@pytest.mark.parametrize("camera", ["rgb:64x60", "nv12:96x40", "nv12-full:40x96"])
@pytest.mark.parametrize("mode", ["crop", "pad"])
def test_every_mode_is_fused(write_model: Callable[..., Path], camera: str, mode: Mode) -> None:
    """Cut or filled up with white, as the pictures that calibrate; the points with the centres that were asked for."""
    frames, rule = CameraFrames.parse(camera), Preprocess(mode)
    fused, apart = both(write_model(), frames, 0, rule, "integer")
    white = np.asarray(~content_mask(rule.framing(frames.size, SIZE).content, SIZE))
    assert white.any() == (mode == "pad" or camera == "nv12:96x40")
    levels = np.abs(255 * (fused["seen"] - apart["seen"]))
    assert levels.max() < (1.01 if frames.yuv is None else 16)
    assert levels.mean() < 0.8
    assert np.array_equal(fused["seen"][..., white], apart["seen"][..., white])
    if frames.yuv is None:  # else the model sees something else, and so gives other points
        assert np.allclose(fused["world_points"], apart["world_points"], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", [name for name, yuv in FORMATS.items() if yuv])
def test_nv12_gives_nearly_what_ffmpeg_gives(write_model: Callable[..., Path], name: str) -> None:
    """FFmpeg interpolates chroma with another bicubic, and rounds and clips twice more."""
    fused, apart = both(write_model(), CameraFrames.parse(f"{name}:96x64"))
    levels = np.abs(255 * (fused["seen"] - apart["seen"]))
    assert levels.max() < 8
    assert levels.mean() < 0.8


def test_cameras_and_points_are_those_of_our_geometry(write_model: Callable[..., Path]) -> None:
    fused, apart = both(write_model(), CameraFrames.parse("rgb:84x56"))
    assert list(fused) == ["extrinsics", "intrinsics", "world_points", "pose_enc", "depth", "seen", "depth_conf"]
    for name in ("extrinsics", "intrinsics", "world_points"):
        assert fused[name].shape == apart[name].shape
        assert np.allclose(fused[name], apart[name], rtol=2e-5, atol=2e-5), name


def test_our_interpreter_and_tensorrts_rules_take_the_graph(write_model: Callable[..., Path]) -> None:
    """It computes there what it computes in ONNX Runtime."""
    camera = CameraFrames.parse("rgb:84x56")
    model = write_model()
    fused = fuse(model, model.with_name("fused.onnx"), camera, DECLARED)
    arrays = camera.of_rgb(frames_of(camera))
    wanted = run_onnx(fused.path, arrays)
    interpreted = GraphSession(fused.path).run({name: array.astype(np.float32) for name, array in arrays.items()})
    for name, values in interpreted.items():
        assert np.allclose(values, wanted[name], rtol=1e-4, atol=1e-5), name
    assert not violations(load_onnx(fused.path))


def test_the_weights_stay_where_they_are(write_model: Callable[..., Path]) -> None:
    """The file beside the model is neither copied nor needed for fusing."""
    model = write_model()
    data = model.with_name("model.onnx.data")
    content = data.read_bytes()
    data.unlink()
    fused = fuse(model, model.with_name("fused.onnx"), CameraFrames.parse("rgb:84x56"), DECLARED)
    again = fuse(model, model.with_name("again.onnx"), CameraFrames.parse("rgb:84x56"), DECLARED)
    assert fused.path.read_bytes() == again.path.read_bytes()
    data.write_bytes(content)
    stored = {one.name: one for one in onnx.load(fused.path, load_external_data=False).graph.initializer}
    (place,) = (entry.value for entry in stored["mix"].external_data if entry.key == "location")
    assert place == "model.onnx.data"


def test_without_poses_only_the_frames_are_fused(write_model: Callable[..., Path]) -> None:
    model = write_model()
    fused = fuse(model, model.with_name("fused.onnx"), CameraFrames.parse("nv12:84x56"), DECLARED[1:])
    assert fused.inputs == {"luma": (FRAMES, 56, 84), "chroma": (FRAMES, 28, 42, 2)}
    assert list(fused.outputs) == ["pose_enc", "depth", "seen", "depth_conf"]


class Novel(Depth):
    """A quantity that no kit knows."""

    kind = "novel"


@pytest.mark.parametrize(
    ("declared", "said"), [((), "nobody describes"), ((Output("x", "x", Novel(), "x"),), r"x \(novel\)")]
)
def test_outputs_that_are_not_known_are_refused(
    write_model: Callable[..., Path], declared: tuple[Output, ...], said: str
) -> None:
    model = write_model()
    with pytest.raises(LoweringError, match=said):
        fuse(model, model.with_name("fused.onnx"), CameraFrames.parse("rgb:84x56"), declared)


def test_the_stage_that_the_how_to_adds(
    write_model: Callable[..., Path], repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code block of the page, as it stands there."""
    camera = CameraFrames.parse("rgb:84x56")
    model = write_model()
    fuse(model, model.with_name("fused.onnx"), camera, DECLARED)
    page = (repository / "docs" / "how-to" / "fuse-camera-io.md").read_text()
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "gs.import_onnx" in block)
    monkeypatch.chdir(model.parent)
    exec(example, {})
    given = run_onnx(Path("mine.onnx"), camera.of_rgb(frames_of(camera)))
    is_sure = given["depth_conf"] > 1.5
    assert is_sure.any()
    assert not is_sure.all()
    assert np.array_equal(given["sure_points"], np.where(is_sure[..., None], given["world_points"], 0))
