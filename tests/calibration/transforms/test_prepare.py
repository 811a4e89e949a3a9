"""The prepared model: the same function, the same module tree, other weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vggt_edge.calibration.observation.collect import calibrate
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.stages.walk import IMAGES
from vggt_edge.calibration.transforms.prepare import prepare, prepared_shapes, prepared_tensors
from vggt_edge.calibration.transforms.rewrite import take_form
from vggt_edge.exporter.graph.annotate import trace
from vggt_edge.exporter.graph.build import write_onnx
from vggt_edge.exporter.graph.stage_program import StageProgram, alone
from vggt_edge.exporter.models.checkpoint import build_model, save_checkpoint
from vggt_edge.exporter.models.config import InputShape, VGGTConfig
from vggt_edge.exporter.models.registry import open_model
from vggt_edge.exporter.models.vggt import VGGT

Difference = Callable[[VGGT, VGGT], float]
FORMS = [
    {"rotate": False, "balance": False, "heads": False},
    {"rotate": True, "balance": False, "heads": False},
    {"rotate": False, "balance": True, "heads": True},
    {"rotate": True, "balance": True, "heads": True},
]


@pytest.mark.parametrize("form", FORMS[1:], ids=str)
def test_outputs_stay(form: dict[str, bool], drawn_vggt: st.SearchStrategy[VGGT], difference: Difference) -> None:
    """Within 1e-5 of what is largest in an output, for any width, shape and seed."""

    @settings(max_examples=5)
    @given(model=drawn_vggt, seed=st.integers(0, 99))
    def check(model: VGGT, seed: int) -> None:
        assert difference(model, prepare(model, seed, **form)) < 1e-5

    check()


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_outputs_of_trained_weights_stay(form: dict[str, bool], mini: VGGT, difference: Difference) -> None:
    """As above, for vggt-mini."""
    assert difference(mini, prepare(mini, 0, **form)) < 1e-5


@pytest.mark.parametrize("outputs", [("camera",), ("depth",)])
def test_a_model_without_some_heads_is_prepared_alike(
    outputs: tuple[str, ...], mini: VGGT, difference: Difference
) -> None:
    """And gets the same weights as the whole one."""
    part, whole = build_model(open_model("vggt-mini"), InputShape(2, 42, 42), outputs), dict(prepared_tensors(mini, 0))
    prepared = prepare(part, 0)
    assert difference(part, prepared) < 1e-5
    assert all(torch.equal(tensor, whole[name]) for name, tensor in prepared.state_dict().items())


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_stream_of_tensors_is_the_prepared_model(form: dict[str, bool], model: VGGT) -> None:
    """To the bit, once each, in the announced shapes, loaded into a model that was built without weights."""
    tensors = list(prepared_tensors(model, 0, **form))
    state = dict(tensors)
    assert len(state) == len(tensors)
    assert {name: tuple(tensor.shape) for name, tensor in tensors} == prepared_shapes(model, rotate=form["rotate"])
    with torch.device("meta"):
        built = VGGT(model.config, model.shape)
    take_form(built, state)
    built.load_state_dict(state, assign=True)
    prepared = prepare(model, 0, **form)
    assert prepared.state_dict().keys() == built.state_dict().keys()
    for name, tensor in prepared.state_dict().items():
        assert torch.equal(tensor, built.state_dict()[name]), name
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
    images = torch.rand(model.example_input().shape)
    with torch.inference_mode():
        for one, other in zip(prepared(images), built.fix_constants()(images), strict=True):
            assert torch.equal(one, other)


def test_the_stream_follows_the_stages_and_gives_them_back(model: VGGT, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stage's pages before its new tensors come, so that a mapped model of any size can be prepared."""
    events: list[str] = []
    monkeypatch.setattr(model, "release", lambda stage: events.append(f"release {stage.name}"))
    for name, _ in prepared_tensors(model, 0):
        if name.endswith("norm1.weight"):
            events.append(name)
    assert events[:4] == [
        "release embed",
        "release patch_embed.blocks.0",
        "aggregator.patch_embed.blocks.0.norm1.weight",
        "release frame_blocks.0",
    ]
    assert events[-4:] == [
        "release camera_head",
        "camera_head.trunk.0.norm1.weight",
        "release depth_head",
        "release point_head",
    ]


def test_a_file_can_be_prepared_as_it_is_mapped(model: VGGT, tmp_path: Path) -> None:
    """The same weights as from memory, and the file is as it was."""
    save_checkpoint(model.state_dict(), model.config, tmp_path / "tiny.safetensors")
    before = (tmp_path / "tiny.safetensors").read_bytes()
    mapped = build_model(open_model(str(tmp_path / "tiny.safetensors")), model.shape, model.heads)
    expected = prepare(model, 0).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in prepared_tensors(mapped, 0))
    assert (tmp_path / "tiny.safetensors").read_bytes() == before


def test_the_form_of_an_ordinary_checkpoint_is_the_ordinary_one(model: VGGT) -> None:
    """Nor does a checkpoint that lacks one LayerScale pass for a prepared one."""
    names = dict.fromkeys(model.state_dict())
    take_form(model, names)
    assert model.state_dict().keys() == names.keys()
    names.pop("aggregator.frame_blocks.0.ls1.gamma")
    take_form(model, names)
    assert "aggregator.frame_blocks.0.ls1.gamma" in model.state_dict()


def test_inserting_turns_draws_no_random_numbers(model: VGGT) -> None:
    """Preparing must not depend on, or change, what else the process draws."""
    before = torch.get_rng_state()
    prepare(model, 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_preparing_twice_is_exact_as_well(model: VGGT, difference: Difference) -> None:
    """What is folded already stays so, and a turn that is there takes up the second rotation."""
    twice = prepare(prepare(model, 0), 1)
    assert difference(model, twice) < 1e-5
    assert twice.state_dict().keys() == prepare(model, 0).state_dict().keys()


def test_blocks_and_stages_are_those_of_the_model(model: VGGT, scenes: tuple[Scene, ...]) -> None:
    """So that plans, statistics and walks need not know; calibration runs, and sees the same layers."""
    prepared = prepare(model, 0)
    assert list(prepared.blocks()) == list(model.blocks())
    assert prepared.constants().keys() == model.constants().keys()
    for one, other in zip(prepared.stages(), model.stages(), strict=True):
        assert (one.name, one.kind, one.reads, one.writes, one.blocks) == (
            other.name, other.kind, other.reads, other.writes, other.blocks
        )  # fmt: skip
    modules = {stage.name: set(stage.module.modules()) for stage in prepared.stages()}
    assert prepared.aggregator.turn in modules["tokens"]
    assert prepared.camera_head.turn in modules["camera_head"]
    seen = [calibrate(each, scenes[:1]) for each in (model, prepared)]
    assert [tensor.key for tensor in seen[1].tensors] == [tensor.key for tensor in seen[0].tensors]


def nodes(model: VGGT, name: str) -> Counter[str]:
    """Operations in the traced program of one stage."""
    (stage,) = [stage for stage in model.stages() if stage.name == name]
    width, shape, constants = model.config.embed_dim, model.shape, model.constants()
    shapes: dict[str, tuple[int, ...]] = {IMAGES: tuple(model.example_input().shape)}
    shapes["camera_tokens"] = (shape.frames, 2 * width)
    shapes |= {f"patches.{tap}": (shape.frames, shape.patches, 2 * width) for tap in model.config.taps}
    tokens = (shape.frames * shape.tokens, width)
    examples = [constants.get(read, torch.zeros(shapes.get(read, tokens))) for read in stage.reads]
    with alone(model, stage):
        program = trace(StageProgram(stage, stage.writes), tuple(examples), name)
    return Counter(str(node.target) for node in program.graph.nodes if node.op == "call_function")


def test_no_node_is_added_inside_a_block(model: VGGT) -> None:
    """Blocks lose the two products of LayerScale; one linear stands before the alternating blocks, one, with a view on
    both sides, before the camera head. A model that was not rotated has none of these.
    """
    prepared, product, linear = prepare(model, 0), "aten.mul.Tensor", "aten.linear.default"
    for name in ("patch_embed.blocks.0", "frame_blocks.0"):
        before, after = nodes(model, name), nodes(prepared, name)
        assert before - after == {product: 2}, name
        assert not after - before, name
    assert nodes(prepared, "depth_head") == nodes(model, "depth_head")
    assert nodes(prepared, "tokens") == nodes(model, "tokens") + Counter({linear: 1})
    before, after = nodes(model, "camera_head"), nodes(prepared, "camera_head")
    assert before - after == {product: 2 * len(model.camera_head.trunk) * model.config.camera_iterations}
    assert (after - before)[linear] == 1
    assert (after - before).total() == 3


def test_a_prepared_model_becomes_onnx(model: VGGT, tmp_path: Path) -> None:
    """Blocks of a kind stay twins, and ONNX Runtime computes what the model does."""
    from vggt_edge.runtimes.onnxruntime import open_onnx

    prepared = prepare(model, 0)
    written = write_onnx(prepared, tmp_path / "prepared.onnx")
    assert written.templates == len({stage.kind for stage in model.stages()})
    images = torch.rand(model.example_input().shape)
    results = open_onnx(written.path).run({IMAGES: images.numpy()})
    with torch.inference_mode():
        expected = dict(zip(model.output_names, model(images), strict=True))
    for name, tensor in expected.items():
        assert float((torch.from_numpy(results[name]) - tensor).abs().max() / tensor.abs().max()) < 1e-5, name


def test_wiring_covers_the_full_size_model() -> None:
    """VGGT-1B on the meta device: every parameter lies in a unit, every path exists, every block is one."""
    with torch.device("meta"):
        model = VGGT(VGGTConfig(), InputShape(1, 518, 518))
    wiring = model.wiring()
    paths = [unit.path for unit in wiring.units]
    assert len(paths) == len(set(paths))
    assert {id(block) for block in model.blocks().values()} <= {id(model.get_submodule(path)) for path in paths}
    assert not [name for name in model.state_dict() if not name.startswith(tuple(f"{path}." for path in paths))]
    stages = {stage.name for stage in model.stages()}
    assert {unit.stage for unit in wiring.units} <= stages
    shapes = prepared_shapes(model)
    take_form(model, shapes)
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == shapes
