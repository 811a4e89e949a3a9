"""What a session does around the operations: precision, inputs, memory, errors."""

from __future__ import annotations

import contextlib
import gc
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from vggt_edge.devices.errors import InputError, LoweringError, UnknownNameError, VggtEdgeError
from vggt_edge.runtimes.coreml.interpreter import MilSession, session
from vggt_edge.runtimes.coreml.interpreter.call import KERNELS, Call
from vggt_edge.runtimes.coreml.sdk import load_coremltools

Array = np.ndarray


def _chain(mb: Any, x: Any) -> Any:
    """exp in FP16, its logarithm in FP32."""
    half = mb.exp(x=mb.cast(x=x, dtype="fp16", name="half"), name="grown")
    return mb.log(x=mb.cast(x=half, dtype="fp32", name="wide"), epsilon=1e-12, name="out")


@pytest.fixture(scope="session")
def chain(save: Callable[..., Path]) -> Path:
    return save(_chain, {"x": ((6,), "fp32")})


@settings(deadline=None, max_examples=30)
@given(numbers=st.lists(st.floats(-12, 12, width=32), min_size=6, max_size=6))
def test_rounding_at_the_border(numbers: list[float], chain: Path) -> None:
    """An operation computes in FP32 on FP16 numbers, and only what it hands on is rounded."""
    x = np.array(numbers, np.float32)
    result = MilSession(chain, "fp16").run({"x": x}, also=["half", "grown"])
    half = x.astype(np.float16).astype(np.float32)
    with np.errstate(over="ignore"):
        grown = torch.exp(torch.tensor(half)).numpy().astype(np.float16).astype(np.float32)
    assert_array_equal(result["half"], half)
    assert_array_equal(result["grown"], grown)
    assert_allclose(result["out"], np.log(grown + np.float32(1e-12)), rtol=1e-5, atol=1e-6)


def test_fp32_rounds_nothing(chain: Path) -> None:
    """Casts between floats are no-ops."""
    x = np.array([0.1, 1.7, -2.3, 12.0, 20.0, -8.0], np.float32)
    ran = MilSession(chain, "fp32")
    result = ran.run({"x": x}, also=["half", "grown"])
    assert_array_equal(result["half"], x)
    assert_allclose(result["grown"], np.exp(x), rtol=1e-6)
    assert_allclose(result["out"], x, rtol=1e-5, atol=1e-5)
    assert ran.overflows == ()


def test_overflow_is_seen(save: Callable[..., Path]) -> None:
    """Up to 65519.99 rounds to 65504, the last number; from 65520 on there is inf, and its value is named."""
    path = save(
        lambda mb, x, y: mb.add(x=mb.cast(x=x, dtype="fp16"), y=mb.cast(x=y, dtype="fp16"), name="sum"),
        {"x": ((2,), "fp32"), "y": ((2,), "fp32")},
    )
    ran = MilSession(path, "fp16")
    x = np.array([65504.0, -65504.0], np.float32)
    near, over = np.array([15, -15], np.float32), np.array([15, -16], np.float32)
    assert_array_equal(ran.run({"x": x, "y": near})["sum"], x)
    assert ran.overflows == ()
    assert_array_equal(ran.run({"x": x, "y": over})["sum"], [65504.0, -np.inf])
    assert ran.overflows == ("sum",)
    ran.run({"x": x, "y": near})
    assert ran.overflows == (), "of the last run"


def test_infinities_of_the_input_are_no_overflow(chain: Path) -> None:
    """What came in infinite was not lost in FP16; NaN passes through."""
    x = np.array([np.inf, -np.inf, np.nan, 0, 0, 0], np.float32)
    ran = MilSession(chain, "fp16")
    result = ran.run({"x": x}, also=["half"])
    assert_array_equal(result["half"], x)
    assert ran.overflows == ()


def test_same_bits_twice(save: Callable[..., Path]) -> None:
    """Two sessions, two runs, the same bytes."""
    random = np.random.default_rng(0)
    weight, x = random.standard_normal((64, 64)).astype(np.float32), random.standard_normal((9, 64)).astype(np.float32)
    path = save(lambda mb, x: mb.softmax(x=mb.linear(x=x, weight=weight)), {"x": (x.shape, "fp32")})
    first, second = (next(iter(MilSession(path).run({"x": x}).values())) for _ in range(2))
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "wrong inputs: none"),
        ({"x": np.zeros(6, np.float32), "y": np.zeros(6, np.float32)}, "wrong inputs: x, y"),
        ({"x": np.zeros((1, 6), np.float32)}, r"input x is float32 \(1, 6\)"),
        ({"x": np.zeros(5, np.float32)}, r"input x is float32 \(5,\)"),
        ({"x": np.zeros(6, np.float64)}, "input x is float64"),
        ({"x": np.zeros(6, np.float16)}, "input x is float16"),
    ],
)
def test_wrong_inputs(inputs: dict[str, Array], message: str, chain: Path) -> None:
    """Names, shapes and types are checked before anything runs."""
    with pytest.raises(InputError, match=message) as error:
        MilSession(chain).run(inputs)
    assert error.value.where == str(chain)


def test_inputs_are_left_alone(save: Callable[..., Path]) -> None:
    """Outputs share no memory with inputs, and read-only arrays can be fed."""
    x = np.arange(6, dtype=np.float32)
    x.setflags(write=False)
    (result,) = MilSession(save(lambda mb, x: mb.identity(x=x), {"x": ((6,), "fp32")}), "fp32").run({"x": x}).values()
    result[:] = 7
    assert_array_equal(x, np.arange(6))


def test_integers_go_in_and_out(save: Callable[..., Path]) -> None:
    """Integer inputs are int32; outputs are float32 whatever they were."""
    path = save(lambda mb, x: mb.add(x=x, y=np.int32(3)), {"x": ((4,), "int32")})
    (result,) = MilSession(path).run({"x": np.arange(4, dtype=np.int32)}).values()
    assert result.dtype == np.float32
    assert_array_equal(result, [3, 4, 5, 6])
    with pytest.raises(InputError, match="input x is float32"):
        MilSession(path).run({"x": np.zeros(4, np.float32)})


@pytest.mark.parametrize("layout", ["RGB", "BGR"])
def test_images(layout: str, ct: Any, save: Callable[..., Path]) -> None:
    """RGB from 0 to 255 goes in whatever the layout; the program sees the layout's order, scaled and shifted."""
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 4, 5)).astype(np.float32)
    bias = [-0.5, -0.25, 0.25]
    kind = ct.ImageType("x", image.shape, color_layout=getattr(ct.colorlayout, layout), scale=1 / 255, bias=bias)
    path = save(lambda mb, x: mb.identity(x=x, name="out"), {"x": (image.shape, "fp32")}, inputs=[kind])
    ran = MilSession(path, "fp32")
    (feature,) = ran.program.description.inputs
    assert (feature.kind, feature.layout) == ("image", layout)
    seen = image if layout == "RGB" else image[:, ::-1]
    expected = seen / 255 + np.array(bias, np.float32).reshape(1, 3, 1, 1)
    assert_allclose(ran.run({"x": image})["out"], expected, rtol=1e-5, atol=1e-6)


def _edited(path: Path, edit: Callable[[Any], None]) -> Path:
    """The package, its main block changed."""
    model = path / "Data/com.apple.CoreML/model.mlmodel"
    spec = load_coremltools("coremltools.proto.Model_pb2").Model.FromString(model.read_bytes())
    edit(spec.mlProgram.functions["main"].block_specializations["CoreML8"])
    model.write_bytes(spec.SerializeToString())
    return path


def test_unknown_operation(save: Callable[..., Path]) -> None:
    """An operation without a kernel is named with its type, its name and the package, before the run."""

    def edit(block: Any) -> None:
        block.operations[-1].type = "hologram"

    path = _edited(save(lambda mb, x: mb.relu(x=x, name="act"), {"x": ((2,), "fp32")}), edit)
    with pytest.raises(LoweringError, match=r"lacks operations of the program: hologram \(first: act\)") as error:
        MilSession(path)
    assert error.value.where == str(path)
    assert "linear" in error.value.expected


def test_unknown_parameter(save: Callable[..., Path]) -> None:
    """A parameter that the kernel does not know is not skipped in silence."""

    def edit(block: Any) -> None:
        block.operations[-1].inputs["slope"].arguments.add().name = "x"

    path = _edited(save(lambda mb, x: mb.relu(x=x, name="act"), {"x": ((2,), "fp32")}), edit)
    with pytest.raises(LoweringError, match="relu act: the MIL interpreter lacks the parameter slope"):
        MilSession(path).run({"x": np.zeros(2, np.float32)})


def test_a_lie_about_the_shape(save: Callable[..., Path]) -> None:
    """What comes out has to be what the program declares."""

    def edit(block: Any) -> None:
        block.operations[-1].outputs[0].type.tensorType.dimensions[0].constant.size = 3

    path = _edited(save(lambda mb, x: mb.relu(x=x, name="act"), {"x": ((2,), "fp32")}), edit)
    with pytest.raises(InputError, match=r"act came out as torch.float32 \(2,\)") as error:
        MilSession(path).run({"x": np.zeros(2, np.float32)})
    assert error.value.expected.startswith("fp32 (3,)")


def test_unknown_value_and_precision(chain: Path) -> None:
    """Names out of a closed set are listed."""
    with pytest.raises(UnknownNameError, match="unknown value 'nothing'"):
        MilSession(chain).run({"x": np.zeros(6, np.float32)}, also=["nothing"])
    with pytest.raises(UnknownNameError, match="fp16, fp32"):
        MilSession(chain, "int8")  # type: ignore[arg-type]


def test_values_are_freed_after_their_last_reader(save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a long chain of operations two values are alive at a time, and no weight outlives its reader."""
    weights = [np.full((8, 8), index, np.float32) for index in range(6)]

    def body(mb: Any, x: Any) -> Any:
        for index, weight in enumerate(weights):
            x = mb.linear(x=x, weight=weight, name=f"layer_{index}")
        return x

    path = save(body, {"x": ((2, 8), "fp32")})
    alive: list[weakref.ref[torch.Tensor]] = []
    counts: list[int] = []
    original = KERNELS["linear"]

    def watched(call: Call) -> Any:
        gc.collect()
        counts.append(sum(1 for reference in alive if reference() is not None))
        result = original(call)
        alive.extend(weakref.ref(tensor) for tensor in (result, call.tensor("weight")))
        return result

    monkeypatch.setitem(KERNELS, "linear", watched)
    MilSession(path, "fp32").run({"x": np.ones((2, 8), np.float32)})
    assert counts == [0, 1, 1, 1, 1, 1], "the one is the input of the layer"


def test_mapped_weights_are_given_back(save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """After enough of them were read, and the results stay the same."""
    weight = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    path = save(lambda mb, x: mb.linear(x=mb.linear(x=x, weight=weight), weight=weight), {"x": ((2, 16), "fp32")})
    x = np.ones((2, 16), np.float32)
    expected = next(iter(MilSession(path, "fp32").run({"x": x}).values()))
    monkeypatch.setattr(session, "_RELEASE_BYTES", 100)
    released: list[Path] = []
    ran = MilSession(path, "fp32")
    file_type = type(ran.program.weights[0])
    original = file_type.release

    def watched(file: Any) -> None:
        released.append(file.path)
        original(file)

    monkeypatch.setattr(file_type, "release", watched)
    assert_array_equal(next(iter(ran.run({"x": x}).values())), expected)
    assert len(released) == 2


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_damaged_bytes_never_crash(data: st.DataObject, chain: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A package with changed bytes runs, or ends in one of our own errors."""
    package = tmp_path_factory.getbasetemp() / "damaged.mlpackage"
    shutil.copytree(chain, package, dirs_exist_ok=True)
    model = package / "Data/com.apple.CoreML/model.mlmodel"
    damaged = bytearray((chain / "Data/com.apple.CoreML/model.mlmodel").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    model.write_bytes(damaged)
    with contextlib.suppress(VggtEdgeError):
        MilSession(package, "fp32").run({"x": np.zeros(6, np.float32)})
