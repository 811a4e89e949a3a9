"""Lowering for Apple devices: what lands in the bundle, that it computes the same, and what stops it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.devices.errors import InputError, LoweringError
from vggt_edge.devices.profile import load_profile
from vggt_edge.runtimes.base import AnnotatedGraph, Lowered, Options
from vggt_edge.runtimes.coreml import BACKEND
from vggt_edge.runtimes.coreml.backend import deployment_target, open_fp32
from vggt_edge.runtimes.coreml.program import load_program
from vggt_edge.runtimes.onnxruntime import open_onnx

Lower = Callable[..., tuple[Lowered, Path]]
MIXED = ("w8a8", "w4a16", "w8a16")
PACKAGE = "coreml/vggt.mlpackage"


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("schemes", [("fp16",) * 3, ("w4a16", "w4a16", "w8a16"), MIXED], ids="-".join)
def test_the_saved_package_computes_what_the_graph_computes(
    lower_mini: Lower, write_mini: Callable[..., Path], tokens: np.ndarray, schemes: tuple[str, ...]
) -> None:
    """FP32 semantics against ONNX Runtime's oracle: constants were rounded to FP16, nothing else may differ."""
    _, out = lower_mini(*schemes)
    expected = open_onnx(write_mini(*schemes)).run({"tokens": tokens})
    actual = open_fp32(out).run({"tokens": tokens})
    assert list(actual) == list(expected)
    for name in expected:
        # In 8 bits a value near a rounding boundary may fall on its other side.
        assert relative(actual[name], expected[name]) <= (2e-2 if "w8a8" in schemes else 1e-3), name


def test_fp16_between_operations_stays_near(
    lower_mini: Lower, write_mini: Callable[..., Path], tokens: np.ndarray
) -> None:
    _, out = lower_mini("fp16", "fp16", "fp16")
    expected = open_onnx(write_mini("fp16", "fp16", "fp16")).run({"tokens": tokens})
    for name, value in BACKEND.open(out).run({"tokens": tokens}).items():
        assert 0 < relative(value, expected[name]) <= 1e-2, name


def test_every_file_is_listed_and_the_bytes_are_the_same_twice(lower_mini: Lower) -> None:
    lowered, first = lower_mini(*MIXED)
    _, second = lower_mini(*MIXED, out="again")
    found = sorted(path.relative_to(first).as_posix() for path in first.rglob("*") if path.is_file())
    assert list(lowered.files) == found
    assert f"{PACKAGE}/Manifest.json" in found
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in found)


def test_the_model_says_what_it_is(lower_mini: Lower) -> None:
    _, out = lower_mini(*MIXED)
    about = load_program(out / PACKAGE).description
    assert about.user["vggt_edge.target"] == "iphone-15-pro"
    assert len(about.user["vggt_edge.plan_digest"]) == 64
    assert "com.github.apple.coremltools.conversion_date" not in about.user
    shapes = {feature.name: feature.type.shape for feature in about.outputs}
    assert shapes == {"pose_enc": (1, 1, 9), "depth": (1, 1, 32, 32), "depth_conf": (1, 1, 32, 32)}
    assert all(feature.description for feature in about.outputs)
    assert "arXiv 2503.11651" in about.short_description


@pytest.mark.parametrize(
    ("schemes", "target", "opset"),
    [
        (("w8a8", "w8a16", "fp16"), "iphone-14-pro", "CoreML7"),
        (("w8a8", "w8a16", "fp16"), "iphone-15-pro", "CoreML8"),
        (("w4a16", "w8a16", "fp16"), "iphone-14-pro", "CoreML8"),
        (("w8a8", "w8a16", "fp16"), "vision-pro", "CoreML8"),
    ],
)
def test_ios_17_where_profile_and_plan_allow_it(
    lower_mini: Lower, schemes: tuple[str, ...], target: str, opset: str
) -> None:
    _, out = lower_mini(*schemes, target=target)
    assert load_program(out / PACKAGE).opset == opset


def test_a_profile_of_older_systems_is_refused(make_plan: Callable[..., PrecisionPlan]) -> None:
    profile = load_profile("iphone-14-pro")
    old = replace(profile, toolchain=replace(profile.toolchain, requires={"ios": "<18"}))
    assert deployment_target(make_plan("w8a8", "w8a8", "w8a8"), old) == 17
    with pytest.raises(LoweringError, match="<18"):
        deployment_target(make_plan("w4a16", "w8a8", "w8a8"), old)


def test_strict_ane_names_the_operations(lower_mini: Lower) -> None:
    """Blocks of 4 bits are not for the Neural Engine: a finding in the report, an error when asked for."""
    lowered, _ = lower_mini("w4a16", "w8a16", "w8a16")
    (check,) = (check for check in lowered.checks if check.name == "Neural Engine audit")
    assert check.status == "failed"
    with pytest.raises(LoweringError, match="frame_blocks_0__attn_qkv"):
        lower_mini("w4a16", "w8a16", "w8a16", out="strict", strict_ane=True)


@pytest.mark.parametrize("scheme", ["w4a16", "fp16"])
def test_an_fp32_block_keeps_its_weights_and_computes_wide(
    write_mini: Callable[..., Path],
    make_plan: Callable[..., PrecisionPlan],
    graph_of: Callable[..., AnnotatedGraph],
    tmp_path: Path,
    scheme: str,
) -> None:
    """What lacks headroom computes in FP32, while its file stays as small as the plan says."""
    graph = graph_of(write_mini("fp16", scheme, "fp16"), ("global_blocks.0",))
    lowered = BACKEND.lower(graph, make_plan("fp16", scheme, "fp16"), load_profile("ipad-m4"), tmp_path / "out")
    assert [entry.realised for entry in lowered.realised] == ["fp16", scheme, "fp16"]
    program = load_program(tmp_path / "out" / PACKAGE)
    types = {
        operation.outputs[0].type.dtype
        for operation in program.operations
        if operation.name.startswith("global_blocks_0__") and operation.type in ("linear", "matmul", "layer_norm")
    }
    assert types == {"fp32"}


def test_images_need_a_graph_of_images(lower_mini: Lower) -> None:
    with pytest.raises(LoweringError, match="takes no images"):
        lower_mini(*MIXED, image_input=True)


def test_a_package_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no Core ML package"):
        BACKEND.open(tmp_path)


def test_a_weight_file_cut_short_is_named(lower_mini: Lower, tokens: np.ndarray) -> None:
    _, out = lower_mini(*MIXED, out="cut")
    weights = out / PACKAGE / "Data/com.apple.CoreML/weights/weight.bin"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(InputError, match=r"weight\.bin"):
        BACKEND.open(out).run({"tokens": tokens})


def test_executors_say_what_computes() -> None:
    subjects = {executor.subject: executor.how for executor in BACKEND.executors()}
    assert list(subjects) == ["coreml-fp16", "coreml-fp32"]
    assert all("MIL interpreter" in how for how in subjects.values())


def test_options_default_to_what_every_backend_knows() -> None:
    assert Options().asked == ()
    assert Options(strict_ane=True).asked == ("strict_ane",)
    assert set(Options(image_input=True, strict_ane=True).asked) <= BACKEND.options


def test_coremltools_reads_the_package_back(lower_mini: Lower) -> None:
    """A second reader beside our own: the program passes the checks of coremltools' builder once more."""
    from vggt_edge.runtimes.coreml.sdk import load_coremltools, quiet

    _, out = lower_mini(*MIXED)
    ct = load_coremltools()
    loader = load_coremltools("coremltools.converters.mil.frontend.milproto.load")
    with quiet():
        model = ct.models.MLModel(str(out / PACKAGE), skip_model_load=True)
        specification = model.get_spec()
        program = loader.load(
            specification,
            specification_version=specification.specificationVersion,
            file_weights_dir=model.weights_dir,
        )
    ours = load_program(out / PACKAGE)
    assert [output.name for output in program.functions["main"].outputs] == list(ours.outputs)
    # Constants inside constants are operations of their own there.
    theirs = sorted(one.op_type for one in program.functions["main"].operations if one.op_type != "const")
    assert theirs == sorted(one.type for one in ours.operations if one.type != "const")
