"""The device script: its pure parts, its errors, and a whole run on an engine and a CUDA library made of ctypes."""

from __future__ import annotations

import ast
import ctypes
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from vggt_edge.calibration.scheme import scheme_of_layers
from vggt_edge.runtimes.common.kit import COMMON, SIGNATURE
from vggt_edge.runtimes.tensorrt import BACKEND, rtx
from vggt_edge.runtimes.tensorrt.backend import write_golden
from vggt_edge.runtimes.tensorrt.engine import KIT, SCRIPT, kit_module

kit = kit_module()
Array = np.ndarray
SOURCE = KIT / SCRIPT


# --- on any Python, with and without TensorRT -----------------------------------------------------------------------


def test_it_is_python_3_8() -> None:
    tree = ast.parse(SOURCE.read_text(), feature_version=(3, 8))
    newer = {"removeprefix", "removesuffix", "bit_count", "is_relative_to", "pairwise", "file_digest"}
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not used & newer


def test_it_imports_nothing_but_the_standard_library_numpy_and_tensorrt() -> None:
    tree = ast.parse(SOURCE.read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert imported - set(sys.stdlib_module_names) == {"numpy", "kit_common", "kit_signature"}
    assert set(kit.RUNTIMES) == {"tensorrt", "tensorrt_rtx"}


@pytest.mark.parametrize("interpreter", ["python3.8", "python3.10", "python3.12", sys.executable])
def test_help_and_a_missing_tensorrt_on_real_interpreters(interpreter: str, tmp_path: Path) -> None:
    found = shutil.which(interpreter)
    # A version manager's shim may be there without the version behind it.
    if found is None or subprocess.run([found, "-c", ""], capture_output=True).returncode != 0:
        pytest.skip(f"{interpreter} is not installed")
    script = shutil.copy(SOURCE, tmp_path)
    shutil.copy(COMMON, tmp_path)
    shutil.copy(SIGNATURE, tmp_path)
    helped = subprocess.run([found, script, "--help"], capture_output=True, text=True)
    assert helped.returncode == 0
    assert "--workspace-mb" in helped.stdout
    run = subprocess.run([found, "-S", script], capture_output=True, text=True)
    assert run.returncode == 3
    assert "TensorRT for Python cannot be imported" in run.stderr
    assert "python3-libnvinfer" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    "arguments", [("--iterations", "0"), ("--iterations", "9" * 30), ("--workspace-mb", "9" * 30), ("--warmup", "x")]
)
def test_wrong_arguments_exit_with_2(arguments: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        kit.main(list(arguments))
    assert caught.value.code == 2
    assert "at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("version", ["8.6.1", "10.2.9", "", "dev"])
def test_a_tensorrt_before_10_3_is_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__=version))
    with pytest.raises(kit.KitError, match="too old") as caught:
        kit.import_tensorrt()
    assert caught.value.code == 3


@pytest.mark.parametrize("version", ["10.3.0", "10.16.1.2", "11.4.1"])
def test_later_ones_are_accepted(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(__version__=version)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    assert kit.import_tensorrt() is module


@pytest.mark.parametrize(
    ("requires", "module"),
    [
        ('{"tensorrt": ">=10.3", "python": ">=3.8"}', "tensorrt"),
        ('{"tensorrt_rtx": ">=1.4"}', "tensorrt_rtx"),
        ("{}", "tensorrt"),
        ("7", "tensorrt"),
    ],
)
def test_kit_json_says_which_tensorrt(requires: str, module: str, tmp_path: Path) -> None:
    (tmp_path / "kit.json").write_text(f'{{"requires": {requires}}}')
    assert kit.wanted_runtime(tmp_path) == module


@pytest.mark.parametrize(
    ("requires", "needed"),
    [
        ('{"tensorrt": ">=11.0,<12"}', (11, 0)),
        ('{"tensorrt": "<12, >=10.13"}', (10, 13)),
        ('{"tensorrt": "<12"}', ()),
        ('{"tensorrt": 7}', ()),
        ("7", ()),
    ],
)
def test_a_bundle_may_need_a_later_tensorrt(
    requires: str, needed: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVFP4 takes more than the script itself."""
    (tmp_path / "kit.json").write_text(f'{{"requires": {requires}}}')
    assert kit.needed_version(tmp_path, "tensorrt") == needed
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="10.16.1"))
    if needed > (10, 16, 1):
        with pytest.raises(kit.KitError, match=r"tensorrt 10\.16\.1 is too old"):
            kit.import_tensorrt("tensorrt", needed)
    else:
        assert kit.import_tensorrt("tensorrt", needed)


def test_tensorrt_for_rtx_has_versions_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for version, is_known in (("1.7.1.116", True), ("1.3.0", False)):
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", SimpleNamespace(__version__=version))
        if is_known:
            assert kit.import_tensorrt("tensorrt_rtx").__version__ == version
            continue
        with pytest.raises(kit.KitError, match=r"tensorrt_rtx 1\.3\.0 is too old"):
            kit.import_tensorrt("tensorrt_rtx")


def test_a_laptop_without_tensorrt_for_rtx_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    (tmp_path / "kit.json").write_text('{"requires": {"tensorrt_rtx": ">=1.4"}}')
    assert kit.main(["--folder", str(tmp_path)]) == 3
    assert "pip install tensorrt-rtx" in capsys.readouterr().err


# --- times ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=200))
def test_quantiles_are_samples_in_order(samples: list[float]) -> None:
    found = kit.quantiles(samples)
    assert found["median_ms"] <= found["p90_ms"] <= found["p99_ms"] <= max(samples)
    assert {found["median_ms"], found["p90_ms"], found["p99_ms"]} <= set(samples)


def test_quantiles_by_the_nearest_rank() -> None:
    assert kit.quantiles([float(n) for n in range(1, 101)]) == {
        "median_ms": 50.0, "p90_ms": 90.0, "p99_ms": 99.0, "runs": 100,
    }  # fmt: skip


# --- precision audit ------------------------------------------------------------------------------------------------


def layer(
    node: str, tactic: str = "", inputs: tuple[str, ...] = (), weights: str = "", **more: object
) -> dict[str, Any]:
    """A layer as the engine inspector of TensorRT 10 describes it at verbosity DETAILED."""
    entry: dict[str, Any] = {"Name": f"{node}_myl0_1", "LayerType": "gemm", "Metadata": f"[ONNX Layer: {node}]"}
    entry["Inputs"] = [{"Name": "x", "Format/Datatype": kind} for kind in inputs]
    if weights:
        entry["Weights"] = {"Type": weights, "Count": 16}
    return {**entry, "TacticName": tactic, **more}


@pytest.mark.parametrize(
    ("tactic", "inputs", "weights", "expected"),
    [
        ("sm80_xmma_gemm_i8i8_i8i32_f32_tn_n_tilesize128x128x64", ("Int8", "Int8"), "", "int8"),
        ("sm80_xmma_gemm_f16f16_f16f32_f16_tn_n_tilesize64x64", ("Half", "Half"), "", "fp16"),
        ("sm80_xmma_gemm_f32f32_tf32f32_f32_tn_n", ("Float",), "", "fp32"),
        # Quantized at the border, computed in floating point: the kernel's name tells.
        ("sm80_xmma_fprop_implicit_gemm_f32f32_tf32f32_f32", ("Int8",), "Float", "fp32"),
        ("", ("Int8",), "Int8", "int8"),
        ("", ("Half",), "Int8", "int8"),
        ("", ("Row major linear FP16 format",), "", "fp16"),
        ("__myl_Fc_0x1234", ("Half", "Int4"), "", "int4"),
        ("sm80_xmma_gemm_f16i4_f16f32_f16", ("Half",), "", "int4"),
        ("sm89_xmma_gemm_e4m3e4m3_e4m3f32_f16_tn", ("Half",), "", "fp8"),
        ("", ("FP8",), "", "fp8"),
        ("", ("Half",), "FP8", "fp8"),
        ("sm120_gemm_e2m1e2m1_ue4m3_f32_f16_tn", ("FP4", "FP8"), "", "fp4"),
        ("", ("FP4", "FP8"), "", "fp4"),
        ("", (), "", None),
    ],
)
def test_what_a_layer_multiplies_in(tactic: str, inputs: tuple[str, ...], weights: str, expected: str | None) -> None:
    assert kit.layer_precision(layer("n", tactic, inputs, weights)) == expected


def block(scheme: str, *nodes: str, computed: str | None = None) -> dict[str, Any]:
    return {"block": "frame_blocks.0", "scheme": scheme, "computed": computed or scheme, "nodes": list(nodes)}


def test_every_scheme_that_is_lowered_can_be_judged_on_the_device() -> None:
    """A kit that does not know the scheme of its own bundle would refuse it there."""
    assert set(map(scheme_of_layers, BACKEND.supported)) <= set(kit.ACCEPTED)


FP8 = {"tactic": "sm89_xmma_gemm_e4m3e4m3_e4m3f32_f16_tn", "inputs": ("FP8",)}
FP4 = {"tactic": "sm120_gemm_e2m1e2m1_ue4m3_f32_f16_tn", "inputs": ("FP4",)}
INT8 = {"tactic": "sm80_xmma_gemm_i8i8_i8i32_f32_tn", "inputs": ("Int8",)}
HALF = {"tactic": "sm80_xmma_gemm_f16f16_f16f32_f16_tn", "inputs": ("Half",)}
FLOAT = {"tactic": "sm80_xmma_gemm_f32f32_tf32f32_f32_tn", "inputs": ("Float",)}


@pytest.mark.parametrize(
    ("scheme", "seen", "status"),
    [
        ("w8a8", (INT8, INT8), "realised"),
        ("w8a8", (INT8, HALF), "not_realised"),
        ("w8a8", (INT8, None), "unknown"),
        ("fp8", (FP8, FP8), "realised"),
        ("fp8", (FP8, HALF), "not_realised"),
        ("nvfp4", (FP4, FP4), "realised"),
        ("nvfp4", (FP4, FP8), "not_realised"),
        ("nvfp4a16", (HALF, HALF), "unknown"),
        ("fp16", (HALF, HALF), "realised"),
        ("fp16", (HALF, FLOAT), "not_realised"),
        # A weight-only layer multiplies in FP16: nothing is proven, and nothing is lost.
        ("w4a16", (HALF, HALF), "unknown"),
        ("w4a16", (HALF, FLOAT), "not_realised"),
        ("fp32", (FLOAT, FLOAT), "realised"),
    ],
)
def test_a_block_is_judged_by_its_worst_linear(scheme: str, seen: tuple[Any, ...], status: str) -> None:
    nodes = ["frame_blocks.0/attn.qkv/MatMul", "frame_blocks.0/mlp.fc1/MatMul"]
    layers = [layer(node, **how) for node, how in zip(nodes, seen, strict=True) if how is not None]
    (entry,) = kit.audit(layers, [block(scheme, *nodes)])
    assert entry["status"] == status
    assert entry["lost"] == ([nodes[1]] if status == "not_realised" else [])


@pytest.mark.parametrize("separator", ["", "\x1e", "\x1f"])
def test_a_fused_layer_speaks_for_all_its_nodes(separator: str) -> None:
    nodes = ("b/mlp.fc1/MatMul", "b/mlp.fc1/Add")
    fused = layer("", **INT8, Metadata=separator.join(f"[ONNX Layer: {node}]" for node in nodes))
    assert kit.onnx_nodes(fused) == list(nodes)


def test_older_reports_name_their_nodes_in_the_layer_name() -> None:
    text = json.dumps({"Layers": ["a/MatMul + a/Add", {"Name": "b/Conv"}]})
    assert [kit.onnx_nodes(entry) for entry in kit.parse_inspector(text)] == [["a/MatMul", "a/Add"], ["b/Conv"]]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"Layers": 1}'])
def test_an_unreadable_report_is_one_clear_error(text: str) -> None:
    with pytest.raises(kit.KitError, match="engine inspector") as caught:
        kit.parse_inspector(text)
    assert caught.value.code == 6


def test_packing_is_judged_only_where_the_difference_outweighs_the_kernels() -> None:
    small = {"weight_bytes": {"packed": 6 << 20, "fp16": 12 << 20}}
    large = {"weight_bytes": {"packed": 600 << 20, "fp16": 1200 << 20}}
    assert kit.weights_packed(20 << 20, small) == "unknown"
    assert kit.weights_packed(620 << 20, large) == "yes"
    assert kit.weights_packed(1210 << 20, large) == "no"


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A device folder around a model that doubles its input."""
    (tmp_path / "model.onnx").write_bytes(b"graph")
    content = {
        "schema_version": 1, "target": "jetson-orin", "plan_digest": "d", "model": "model.onnx",
        "sha256": {"model.onnx": kit.sha256_of(tmp_path / "model.onnx")},
        "blocks": [block("w8a8", "n/MatMul")],
        "weight_bytes": {"packed": 10, "fp16": 20}, "tolerances": {"sqnr_db_min": 25.0},
    }  # fmt: skip
    (tmp_path / "kit.json").write_text(json.dumps(content))
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_golden(tmp_path, {"images": x}, {"depth": 2 * x}, {"depth": 2 * x + 0.01})
    return tmp_path


def with_field(folder: Path, name: str, value: object) -> None:
    """The folder with one field of its kit.json changed."""
    content = json.loads((folder / "kit.json").read_text())
    content[name] = value
    (folder / "kit.json").write_text(json.dumps(content))


def test_golden_tensors_come_back_and_are_listed(folder: Path) -> None:
    kit.load_kit(folder)
    inputs, expected, reference = kit.load_golden(folder / "golden.safetensors")
    assert expected["depth"].tolist() == (2 * inputs["images"]).tolist()
    assert set(reference) == {"depth"}
    assert "golden.safetensors" in json.loads((folder / "kit.json").read_text())["sha256"]


def test_golden_tensors_are_the_same_bytes_twice(folder: Path) -> None:
    first = (folder / "golden.safetensors").read_bytes()
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_golden(folder, {"images": x}, {"depth": 2 * x}, {"depth": 2 * x + 0.01})
    assert (folder / "golden.safetensors").read_bytes() == first


@pytest.mark.parametrize("name", ["model.onnx", "golden.safetensors"])
def test_a_damaged_file_is_named(name: str, folder: Path) -> None:
    with (folder / name).open("ab") as file:
        file.write(b"x")
    with pytest.raises(kit.KitError, match=f"{name} is missing or damaged") as caught:
        kit.load_kit(folder)
    assert caught.value.code == 2


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "a/b"])
def test_a_path_that_leaves_the_folder_is_refused(name: str, folder: Path) -> None:
    content = json.loads((folder / "kit.json").read_text())
    content["sha256"][name] = "0" * 64
    (folder / "kit.json").write_text(json.dumps(content))
    with pytest.raises(kit.KitError, match="not a plain file name"):
        kit.load_kit(folder)


@pytest.mark.parametrize("name", ["sha256", "blocks", "tolerances", "weight_bytes", "outputs"])
@pytest.mark.parametrize("value", [{}, [], None, 7, "many"])
def test_empty_tables_are_refused(name: str, value: object, folder: Path) -> None:
    """A kit without digests, blocks or limits would call everything good."""
    with_field(folder, name, value)
    with pytest.raises(kit.KitError, match=rf"cannot use .*kit\.json: {name}") as caught:
        kit.load_kit(folder)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("tolerances", {"sqnr_db_min": 0}, "above 0 and at most 200"),
        ("tolerances", {"sqnr_db_min": -300}, "above 0 and at most 200"),
        ("tolerances", {"sqnr_db_min": 201}, "above 0 and at most 200"),
        ("tolerances", {"sqnr_db_min": 25, "pose_degrees_max": 181}, "at most 180"),
        ("tolerances", {"sqnr": 25}, "sqnr_db_min is missing"),
        ("weight_bytes", {"packed": -1, "fp16": 20}, "packed is -1"),
        ("weight_bytes", {"packed": 10, "fp16": 2**70}, "fp16 is 1180591620717411303424"),
        ("sha256", {"other": "0" * 64}, "does not list the model"),
        ("sha256", {"model.onnx": "0" * 63}, "model.onnx is no sha256"),
        ("blocks", [{"block": "b", "scheme": "w8a8", "computed": "w1a1", "nodes": []}], "computed in 'w1a1'"),
        ("blocks", [{"block": "b", "scheme": "w8a8", "computed": "w8a8", "nodes": [[]]}], "no list of names"),
        ("outputs", [{"name": "depth", "shape": [2, -3]}], "is no shape"),
        ("outputs", [{"name": "depth", "shape": [2, 3]}] * 2, "there twice"),
        ("schema_version", True, "schema_version"),
        ("schema_version", 2**70, "schema_version"),
    ],
)
def test_a_field_out_of_range_is_named(name: str, value: object, reason: str, folder: Path) -> None:
    """Numbers, names, lists."""
    with_field(folder, name, value)
    with pytest.raises(kit.KitError, match=reason) as caught:
        kit.load_kit(folder)
    assert caught.value.code == 2


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"a": 016}', '{"a": NaN}', '{"a": 1} x', "{} // no", "[" * 99])
def test_json_that_parsers_read_differently_is_refused(text: str, folder: Path) -> None:
    """tests/kits/json_cases has all of them."""
    (folder / "kit.json").write_text(text)
    with pytest.raises(kit.KitError, match=r"cannot use .*kit\.json"):
        kit.load_kit(folder)


def test_weights_that_are_not_listed_are_refused(folder: Path) -> None:
    """TensorRT would read them with the graph."""
    (folder / "model.onnx.data").write_bytes(b"planted")
    with pytest.raises(kit.KitError, match=r"does not list model\.onnx\.data"):
        kit.load_kit(folder)


@pytest.mark.parametrize("group", ["input", "expected", "fp32"])
def test_golden_tensors_with_nan_name_their_file(group: str, folder: Path) -> None:
    """The kit is refused, and not the engine, which may be as good as any."""
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    arrays = {"input": {"images": x}, "expected": {"depth": 2 * x}, "fp32": {"depth": 2 * x}}
    next(iter(arrays[group].values()))[1, 1] = np.nan
    write_golden(folder, *arrays.values())
    with pytest.raises(kit.KitError, match=rf"cannot use .*golden\.safetensors: {group}/\w+ holds NaN"):
        kit.golden_of(folder, kit.load_kit(folder))


def test_golden_tensors_of_other_outputs_are_refused(folder: Path) -> None:
    """Names and shapes are those of kit.json."""
    with_field(folder, "outputs", [{"name": "points", "shape": [2, 3]}])
    with pytest.raises(kit.KitError, match="holds other outputs than"):
        kit.golden_of(folder, kit.load_kit(folder))


def with_frames(folder: Path, golden: dict[str, Array]) -> None:
    """Add a graph for camera frames, which the fake engine stands for as well."""
    (folder / "fused.onnx").write_bytes(b"fused graph")
    save_file(golden, folder / "golden-fused.safetensors")
    content = json.loads((folder / "kit.json").read_text())
    for name in ("fused.onnx", "golden-fused.safetensors"):
        content["sha256"][name] = kit.sha256_of(folder / name)
    outputs = [{"name": "depth", "shape": [2, 3]}]
    content["fused"] = {"model": "fused.onnx", "golden": "golden-fused.safetensors", "outputs": outputs}
    (folder / "kit.json").write_text(json.dumps(content))


def test_frames_of_a_camera_are_8_bits(folder: Path) -> None:
    """Only they may be: an output of 8 bits is no output."""
    frames, depth = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3), np.ones((2, 3), np.float32)
    with_frames(folder, {"input/frames": frames, "expected/depth": depth})
    inputs, expected, reference = kit.golden_of(folder, kit.fused_kit(kit.load_kit(folder)))
    assert inputs["frames"].dtype == np.uint8
    assert np.array_equal(inputs["frames"], frames)
    assert (list(expected), reference) == (["depth"], {})
    with pytest.raises(kit.KitError, match="input/frames is no float32 tensor"):
        kit.load_golden(folder / "golden-fused.safetensors")
    with_frames(folder, {"input/frames": frames, "expected/depth": depth.astype(np.uint8)})
    with pytest.raises(kit.KitError, match="expected/depth"):
        kit.golden_of(folder, kit.fused_kit(kit.load_kit(folder)))


def test_a_kit_without_frames_says_how_to_get_them(folder: Path) -> None:
    with pytest.raises(kit.KitError, match="--fuse-io"):
        kit.fused_kit(kit.load_kit(folder))


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"schema_version": 9}'])
def test_a_broken_description_is_one_clear_error(content: str, folder: Path) -> None:
    (folder / "kit.json").write_text(content)
    with pytest.raises(kit.KitError, match=r"cannot use .*kit\.json"):
        kit.load_kit(folder)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no safetensors"])
def test_broken_golden_tensors_are_one_clear_error(content: bytes, folder: Path) -> None:
    (folder / "golden.safetensors").write_bytes(content)
    with pytest.raises(kit.KitError, match=r"cannot use .*golden\.safetensors"):
        kit.load_golden(folder / "golden.safetensors")


# --- a whole run ----------------------------------------------------------------------------------------------------


class FakeCudart:
    """The CUDA runtime's calls on host memory."""

    cudaGetErrorString = SimpleNamespace()  # noqa: N815, the library's name

    def __init__(self) -> None:
        self.blocks: dict[int, Any] = {}

    def __getattr__(self, _name: str) -> Callable[..., int]:
        return lambda *_arguments: 0

    def cudaMalloc(self, pointer: Any, size: Any) -> int:  # noqa: N802
        memory = ctypes.create_string_buffer(size.value)
        pointer._obj.value = ctypes.addressof(memory)
        self.blocks[pointer._obj.value] = memory
        return 0

    def cudaFree(self, pointer: Any) -> int:  # noqa: N802
        return 0 if self.blocks.pop(pointer.value, None) is not None else 1

    def cudaMemcpy(self, target: Any, source: Any, size: Any, _kind: Any) -> int:  # noqa: N802
        ctypes.memmove(target, source, size.value)
        return 0


class FakeContext:
    """factors: of one run after the other; the last one stays."""

    def __init__(self, *factors: float) -> None:
        self.factors, self.addresses = list(factors), {}  # type: ignore[var-annotated]

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, _stream: int) -> bool:
        source, target = ((ctypes.c_float * 6).from_address(self.addresses[name]) for name in ("images", "depth"))
        factor = self.factors.pop(0) if len(self.factors) > 1 else self.factors[0]
        for index in range(6):
            target[index] = factor * source[index]
        return True


def fake_tensorrt(  # type: ignore[no-untyped-def]
    *factors: float, tactic=INT8["tactic"], dtype=np.float32, loaded=None, names=("images", "depth"), error=""
) -> Any:
    """TensorRT's Python interface, as far as the script uses it, around an engine that multiplies.

    factors: of one run after the other, by default 2. loaded: gets the engines that are deserialized.
    error: what TensorRT logs instead of building one.
    """
    report = json.dumps({"Layers": [layer("n/MatMul", tactic)]})
    mode = SimpleNamespace(INPUT="in", OUTPUT="out")
    engine = SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name=lambda index: names[index],
        get_tensor_shape=lambda _name: (2, 3),
        get_tensor_dtype=lambda name: "in" if name == "images" else "out",
        get_tensor_mode=lambda name: mode.INPUT if name == "images" else mode.OUTPUT,
        create_execution_context=lambda: FakeContext(*(factors or (2.0,))),
        create_engine_inspector=lambda: SimpleNamespace(get_engine_information=lambda _format: report),
    )

    def load(data: bytes) -> Any:
        if loaded is not None:
            loaded.append(data)
        return engine

    def build(_network: Any, _config: Any) -> bytes | None:
        if error:
            loggers[-1].log(1, error)
        return None if error else b"built"

    builder = SimpleNamespace(
        create_network=lambda _flags: SimpleNamespace(),
        create_builder_config=SimpleNamespace,
        build_serialized_network=build,
    )
    logger, loggers = SimpleNamespace(), list[Any]()
    severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2)
    return SimpleNamespace(
        __version__="10.3.0",
        ILogger=type("ILogger", (), {"Severity": severity, "__init__": loggers.append}),
        Builder=lambda _logger: builder,
        OnnxParser=lambda _network, _logger: SimpleNamespace(parse_from_file=lambda _path: True, logger=logger),
        Runtime=lambda _logger: SimpleNamespace(deserialize_cuda_engine=load),
        NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1),
        ProfilingVerbosity=SimpleNamespace(DETAILED=2),
        LayerInformationFormat=SimpleNamespace(JSON=1),
        TensorIOMode=mode,
        nptype=lambda kind: dtype if kind == "out" else np.float32,
    )


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    def install(trt: Any) -> None:
        monkeypatch.setitem(sys.modules, "tensorrt", trt)
        monkeypatch.setattr(kit, "load_cudart", FakeCudart)

    return install


def run(folder: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    code = kit.main(["--folder", str(folder), "--iterations", "5", "--warmup", "1", *arguments])
    return code, json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("Error Code 2: OutOfMemory (Requested size was 1073741824 bytes.)", 7),
        ("Error Code 10: Insufficient memory for the workspace", 7),
        ("Internal error: std::bad_alloc", 7),
        ("Error Code 10: Internal Error (Could not find any implementation for node n/MatMul.)", 6),
    ],
)
def test_a_build_that_runs_out_of_memory_is_no_fault_of_the_graph(
    folder: Path, on_device: Callable[[Any], None], said: str, code: int
) -> None:
    on_device(fake_tensorrt(error=said))
    assert kit.main(["--folder", str(folder), "--iterations", "5", "--warmup", "1"]) == code


def test_a_good_engine(folder: Path, on_device: Callable[[Any], None], fits: Callable[[str, object], None]) -> None:
    """The result has every key of docs/how-to/kit-result.md."""
    on_device(fake_tensorrt())
    code, result = run(folder)
    fits("result", result)
    assert code == result["exit_code"] == 0
    assert result["status"] == "passed"
    (entry,) = result["outputs"]
    assert (entry["status"], entry["against_simulation"]["sqnr_db"], entry["sqnr_db_min"]) == ("passed", 200.0, 25.0)
    assert result["precision"][0]["status"] == "realised"
    assert result["gpu_ms"]["count"] == result["timings_ms"]["measured"]["count"] == result["latency"]["runs"] == 5
    assert result["timings_ms"]["compile"] > 0
    assert result["timings_ms"]["first_prediction"] > 0
    assert result["memory_bytes"]["value"] == result["peak_memory_bytes"] > 1 << 20
    assert (result["runtime"], result["runs_unlike_first"]) == ({"name": "tensorrt", "version": "10.3.0"}, 0)
    assert {"device", "thermal", "low_power_mode", "threads", "load_s", "target", "plan_digest"} <= set(result)
    assert (folder / "model.engine").read_bytes() == b"built"


def test_the_graph_for_frames_is_built_and_judged_by_its_own_goldens(
    folder: Path, on_device: Callable[[Any], None]
) -> None:
    inputs = np.arange(6, dtype=np.float32).reshape(2, 3)
    with_frames(folder, {"input/images": inputs, "expected/depth": 3 * inputs})
    on_device(fake_tensorrt(3.0))
    code, result = run(folder, "--fused")
    assert (code, result["status"]) == (0, "passed")
    assert result["model_sha256"] == kit.sha256_of(folder / "fused.onnx")
    assert (folder / "fused.engine").read_bytes() == b"built"
    assert run(folder)[0] == 4, "the other graph gives twice its input"


def test_an_engine_that_drifts_exits_4_and_still_writes_the_result(
    folder: Path, on_device: Callable[[Any], None]
) -> None:
    on_device(fake_tensorrt(2.5))
    code, result = run(folder)
    assert code == result["exit_code"] == 4
    assert result["outputs"][0]["status"] == result["status"] == "failed"


@pytest.mark.parametrize("bad", [float("nan"), 0.0, -2.0])
@pytest.mark.parametrize("place", [1, 2, 4, 6])
def test_one_bad_run_among_many_fails(bad: float, place: int, folder: Path, on_device: Callable[[Any], None]) -> None:
    """Runs before, among and after the measured ones count: one first, one to warm up, five measured."""
    factors = [2.0] * 8
    factors[place] = bad
    on_device(fake_tensorrt(*factors))
    code, result = run(folder)
    assert code == 4
    assert (result["status"], result["runs_unlike_first"]) == ("failed", 1)
    assert result["outputs"][0]["finite"] == (bad == bad)


def test_without_a_limit_nothing_passes(folder: Path, on_device: Callable[[Any], None]) -> None:
    """Zeros neither."""
    with_field(folder, "tolerances", {"sqnr_db_min": None})
    for factor in (2.0, 0.0):
        on_device(fake_tensorrt(factor))
        code, result = run(folder)
        assert (code, result["status"]) == (0, "not_judged")
    on_device(fake_tensorrt(float("nan")))
    assert run(folder)[1]["status"] == "failed"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype": np.float16}, "output depth is float16 .* instead of float32"),
        ({"names": ("images", "points")}, "the engine has the outputs"),
    ],
)
def test_an_engine_with_other_outputs_is_told(
    changes: dict[str, Any], reason: str, folder: Path, on_device: Callable[[Any], None],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Type, name and order, before anything is compared."""
    on_device(fake_tensorrt(**changes))
    assert kit.main(["--folder", str(folder)]) == 6
    assert re.search(reason, capsys.readouterr().err)


def test_a_lost_precision_exits_6_and_names_the_node(folder: Path, on_device: Callable[[Any], None]) -> None:
    on_device(fake_tensorrt(tactic=str(HALF["tactic"])))
    code, result = run(folder)
    assert code == result["exit_code"] == 6
    assert result["precision"][0]["lost"] == ["n/MatMul"]


def test_an_engine_that_lies_there_is_never_loaded(folder: Path, on_device: Callable[[Any], None]) -> None:
    """Whatever says that it fits: an engine is native code."""
    loaded: list[bytes] = []
    on_device(fake_tensorrt(loaded=loaded))
    key = {"sha256": json.loads((folder / "kit.json").read_text())["sha256"], "tensorrt": "10.3.0"}
    key |= {"compute_capability": "0.0", "workspace_mb": None, "optimization_level": None}
    for _ in range(2):
        (folder / "model.engine").write_bytes(b"planted")
        (folder / "model.engine.json").write_text(json.dumps(key))
        assert run(folder)[0] == 0
    assert loaded == [b"built", b"built"]
    assert (folder / "model.engine").read_bytes() == b"built"


def test_build_only_neither_replays_nor_measures(folder: Path, on_device: Callable[[Any], None]) -> None:
    on_device(fake_tensorrt())
    (folder / "golden.safetensors").unlink()
    content = json.loads((folder / "kit.json").read_text())
    del content["sha256"]["golden.safetensors"]
    (folder / "kit.json").write_text(json.dumps(content))
    code, result = run(folder, "--build-only")
    assert code == 0
    assert (result["status"], result["latency"]) == ("not_judged", None)
    assert result["precision"][0]["status"] == "realised"


def test_a_full_disk_exits_7(folder: Path, on_device: Callable[[Any], None], capsys: Any) -> None:
    on_device(fake_tensorrt())
    (folder / "model.engine.part").mkdir()
    assert kit.main(["--folder", str(folder)]) == 7
    assert "cannot write" in capsys.readouterr().err
    assert not (folder / "result.json").exists()


@pytest.mark.skipif(not rtx.availability().ok, reason=rtx.availability().reason)
def test_the_real_interface_takes_the_script_s_calls(write_mini: Callable[..., Path], tmp_path: Path) -> None:
    """TensorRT for RTX has TensorRT's Python interface: network, parser, configuration and build run on it for real."""
    from vggt_edge.runtimes.tensorrt._rtx_worker import load_bindings
    from vggt_edge.runtimes.tensorrt.prepare import prepare

    trt = load_bindings()
    model = prepare(write_mini("w8a8", "w4a16", "w8a8"), tmp_path / "trt" / "model.onnx").path

    def for_sm86(config: Any) -> None:
        assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM86, 0)

    logger = trt.Logger(trt.Logger.ERROR)
    assert len(kit.build_engine(trt, logger, model, workspace_mb=64, adjust=for_sm86)) > 100_000
    model.write_bytes(b"broken")
    with pytest.raises(kit.KitError, match="TensorRT cannot read"):
        kit.build_engine(trt, logger, model)
