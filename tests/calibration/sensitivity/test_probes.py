"""Probed sensitivities: right where the answer is known, ranked as the ablation ranks, the same after a kill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from vggt_edge.calibration.apply import replacement
from vggt_edge.calibration.metrics.output import Output
from vggt_edge.calibration.metrics.quantities import Confidence, Depth
from vggt_edge.calibration.observation.collect import images_of
from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.quantization.form import Form, LayerShape
from vggt_edge.calibration.quantization.operators import fake_quantize_dynamic
from vggt_edge.calibration.quantization.ranges import INPUT_RANGES
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.scheme import INT8, scheme
from vggt_edge.calibration.sensitivity import probe_layers, probes
from vggt_edge.calibration.sensitivity.ablation import Sensitivity, measure, output_errors, tensor_scale, weighted
from vggt_edge.calibration.sensitivity.probe_layers import layer_errors, quantized_forms, sampled, weight_gradient
from vggt_edge.calibration.sensitivity.probes import Seen, cotangent, estimate, pulled_back
from vggt_edge.calibration.stages.journal import MemoryJournal
from vggt_edge.calibration.stages.walk import IMAGES, Stage, StageTime, run_stages, walk
from vggt_edge.devices.errors import InputError, UnknownNameError, UsageError
from vggt_edge.exporter.models.vggt import ARCHITECTURE, VGGT

ROWS, WIDTH = 24, 32


class Chain(nn.Module):
    """Two linears in two stages and nothing else: the error of either is known in closed form."""

    special_tokens = 0
    outputs = (Output("depth", "depth", Depth(), "depth"),)
    output_names = ("depth",)
    shape = SimpleNamespace(tokens=ROWS)

    def __init__(self, detached: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.detached = detached
        self.requires_grad_(False)

    def stages(self) -> tuple[Stage, ...]:
        return (
            Stage("first", "a", (IMAGES,), ("middle",), self.first, self._first, ("first",)),
            Stage("last", "b", ("middle",), ("depth",), self.last, self._last, ("last",)),
        )

    def _first(self, layer: nn.Module, images: Tensor) -> tuple[Tensor]:
        return (layer(images.reshape(ROWS, WIDTH)),)

    def _last(self, layer: nn.Module, middle: Tensor) -> tuple[Tensor]:
        # An offset, so that depth is positive.
        return (layer(middle.detach() if self.detached else middle) + 10,)

    def blocks(self) -> dict[str, nn.Module]:
        return {"first": self.first, "last": self.last}

    def constants(self) -> dict[str, Tensor]:
        return {}

    def release(self, stage: Stage) -> None:
        pass

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (run_stages(self.stages(), {IMAGES: images}, kept=("depth",))["depth"],)


class SureChain(Chain):
    """A confidence beside the depth, from a layer of its own in the last block."""

    outputs = (*Chain.outputs, Output("sure", "depth", Confidence(), "confidence"))
    output_names = ("depth", "sure")

    def __init__(self) -> None:
        super().__init__()
        self.ends = nn.ModuleDict({"depth": self.last, "sure": nn.Linear(WIDTH, WIDTH).requires_grad_(False)})

    def stages(self) -> tuple[Stage, ...]:
        first, _ = super().stages()
        return first, Stage("last", "b", ("middle",), ("depth", "sure"), self.ends, self._ends, ("last",))

    def _ends(self, ends: nn.ModuleDict, middle: Tensor) -> tuple[Tensor, Tensor]:
        return ends["depth"](middle) + 10, ends["sure"](middle)

    def blocks(self) -> dict[str, nn.Module]:
        return {"first": self.first, "last": self.ends}


@pytest.fixture
def chain_scene() -> Scene:
    return Scene("noise", np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32), ("a",))


@pytest.fixture
def exact_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_layers, "has_bfloat16", lambda: False)


def linear_error(chain: Chain, images: Tensor, block: str) -> float:
    """1/2 mean((J d)^2 / depth^2) summed over single weights, d being what w8a16 does to each alone."""
    x = images.reshape(ROWS, WIDTH)
    depth = chain(images)[0]
    layer = chain.blocks()[block]
    assert isinstance(layer, nn.Linear)
    stored = replacement(layer, block, Form.of(scheme("w8a16"), LayerShape.of(layer)), NO_STATS)
    change = (stored.dequantized() - layer.weight).square()  # type: ignore[operator]
    # Over the outputs (t, k): weight (o, i) of the last layer moves (t, o) by d * middle[t, i]; of the first, all
    # (t, k) by d * last.weight[k, o] * x[t, i].
    if block == "last":
        middle = chain.first(x)
        moved = torch.einsum("oi,ti,to->", change, middle.square(), depth.square().reciprocal())
    else:
        spread = chain.last.weight.square()
        moved = torch.einsum("oi,ti,ko,tk->", change, x.square(), spread, depth.square().reciprocal())
    return 0.5 * float(moved) / depth.numel()


NO_STATS = CalibrationStats("", (), (), (), {})
CHAIN = {"first": ("w8a16",), "last": ("w8a16",)}


@pytest.mark.usefixtures("exact_arithmetic")
@pytest.mark.parametrize("detached", [False, True])
def test_a_linear_chain_gives_the_analytic_error(chain_scene: Scene, detached: bool) -> None:
    """Also through a ``detach``, which stops training but no quantization error."""
    chain = Chain(detached)
    images = images_of(chain_scene)
    first, last = estimate(chain, NO_STATS, [chain_scene], CHAIN, 64, seed=0, probes=400)
    assert first.error == pytest.approx(linear_error(chain, images, "first"), rel=0.05)
    assert last.error == pytest.approx(linear_error(chain, images, "last"), rel=0.05)


def test_a_layer_of_an_output_without_weight_is_seen_with_gradients_of_zero(chain_scene: Scene) -> None:
    """Tuning needs what comes into it."""
    found: dict[str, Seen] = {}

    def finish(name: str, layer: nn.Module, seen: Seen) -> None:
        found[name] = seen

    for _ in pulled_back(SureChain(), [chain_scene], finish, lambda index, stage: None, seed=0):
        pass
    assert found["last.sure"].by_output.abs().max() == 0
    assert torch.equal(found["last.sure"].x, found["last.depth"].x)
    assert bool(found["last.depth"].by_output.any())


CANDIDATES = {
    "patch_embed.blocks.0": ("fp16", "w8a16", "w8a8", "w4a16"),
    "frame_blocks.0": ("w8a8", "w4a16"),
    "global_blocks.2": ("fp16", "w8a16", "w8a8", "w4a16"),
    "frame_blocks.3": ("fp16", "w4a16"),
    "camera_head.trunk.0": ("fp32", "w8a8", "w4a16"),
    "point_head": ("fp16", "w8a16", "w8a8"),
}


def test_ranks_as_the_ablation_does(model: VGGT, scenes: tuple[Scene, ...], stats: CalibrationStats) -> None:
    exact = measure(model, stats, scenes[:1], CANDIDATES, 64)
    probed = estimate(model, stats, scenes[:1], CANDIDATES, 64, seed=0)
    assert [(one.block, one.scheme) for one in probed] == [(one.block, one.scheme) for one in exact]
    assert spearmanr([one.error for one in probed], [one.error for one in exact]).statistic > 0.9
    ratios = [mine.error / true.error for mine, true in zip(probed, exact, strict=True) if true.error > 0]
    assert 0.3 < float(np.median(ratios)) < 3.0


ANDROID = {
    "patch_embed.blocks.0": ("w8a8d", "w4a8d"),
    "frame_blocks.0": ("w8a8d", "w4a8d"),
    "global_blocks.2": ("fp32", "w8a8d", "w4a8d"),
    "frame_blocks.3": ("w8a8d", "w4a8d"),
    "camera_head.trunk.0": ("w8a8d", "w4a8d"),
    "depth_head": ("w8a8d",),
    "point_head": ("w8a8d",),
}


def test_ranks_dynamic_activations_as_the_ablation_does(
    model: VGGT, scenes: tuple[Scene, ...], stats: CalibrationStats
) -> None:
    exact = measure(model, stats, scenes[:1], ANDROID, 32)
    probed = estimate(model, stats, scenes[:1], ANDROID, 32, seed=0)
    assert spearmanr([one.error for one in probed], [one.error for one in exact]).statistic > 0.9
    ratios = [mine.error / true.error for mine, true in zip(probed, exact, strict=True) if true.error > 0]
    assert 0.3 < float(np.median(ratios)) < 3.0


def test_schemes_that_store_a_weight_alike_share_it_and_not_their_input() -> None:
    layer = nn.Linear(64, 8).requires_grad_(False)
    names = ("w8a8d", "w8a16", "w4a8d", "w4a16", "fp32")
    forms = quantized_forms("layer", layer, names, 32, NO_STATS)
    assert {name: form.scheme for name, (_, form) in forms.items()} == {name: name for name in names[:-1]}
    assert forms["w8a8d"][0] is forms["w8a16"][0]
    assert not torch.equal(forms["w4a8d"][0].weight_scale, forms["w4a16"][0].weight_scale)


@pytest.mark.usefixtures("exact_arithmetic")
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(64, 8), (probe_layers.TOKENS_AT_ONCE + 7, 64)),
        (nn.Conv2d(4, 6, 3, padding=1), (3, 4, 9, 9)),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (3, 4, 5, 5)),
    ],
)
def test_a_dynamic_input_adds_what_it_really_changes(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """Token by token or image by image, though only some of them are at hand at a time."""
    torch.manual_seed(0)
    layer.requires_grad_(False)
    x = torch.randn(shape) * torch.logspace(-3, 3, shape[0]).reshape(-1, *(1 for _ in shape[1:]))
    by_input, by_output = torch.randn(shape), torch.zeros_like(layer(x))
    forms = quantized_forms("layer", layer, ("w8a8d", "w8a16"), 32, NO_STATS)
    found = layer_errors(sampled(layer, by_output, "layer"), x, by_input, forms)
    change = fake_quantize_dynamic(x, [1, *x.shape[1:]], INPUT_RANGES[INT8]) - x
    assert found["w8a16"] == 0.0
    assert found["w8a8d"] == pytest.approx(0.5 * float((by_input * change).square().sum()), rel=1e-4)


def test_fp32_costs_nothing(model: VGGT, scenes: tuple[Scene, ...], stats: CalibrationStats) -> None:
    (entry,) = estimate(model, stats, scenes[:1], {"frame_blocks.1": ("fp32",)}, 64, seed=0)
    assert entry.error == 0.0


def test_only_a_head_tells_its_output(model: VGGT, scenes: tuple[Scene, ...], stats: CalibrationStats) -> None:
    candidates = {"global_blocks.3": ("fp16",), "point_head": ("fp16",)}
    trunk, head = estimate(model, stats, scenes[:1], candidates, 64, seed=0)
    assert trunk.per_output == {}
    assert head.per_output == {"points": head.error}


def test_same_seed_same_errors(model: VGGT, scenes: tuple[Scene, ...], stats: CalibrationStats) -> None:
    first, again, other = (estimate(model, stats, scenes[:1], FEW, 64, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_takes_the_values_of_an_earlier_walk(
    model: VGGT, scenes: tuple[Scene, ...], stats: CalibrationStats, wanted: tuple[Sensitivity, ...]
) -> None:
    """Of more scenes than are probed; the walk is not repeated."""
    values = MemoryJournal()
    everything = [name for stage in model.stages() for name in stage.writes]
    assert len(list(walk(model, [images_of(scene) for scene in scenes], values, kept=everything))) > 0
    seen: list[int] = []
    found = estimate(
        model, stats, scenes[:2], FEW, 64, seed=0, values=values, on_stage=lambda time: seen.append(time.done)
    )
    assert found == wanted
    assert seen[0] == len(model.stages()) + 1


class KilledError(Exception):
    pass


def killed_after(count: int) -> Callable[[StageTime], None]:
    def report(time: StageTime) -> None:
        if time.done == count:
            raise KilledError

    return report


FEW = {"frame_blocks.0": ("w8a8", "w4a16"), "camera_head.trunk.0": ("w8a8",), "depth_head": ("w8a16",)}


@pytest.fixture
def wanted(model: VGGT, scenes: tuple[Scene, ...], stats: CalibrationStats) -> tuple[Sensitivity, ...]:
    return estimate(model, stats, scenes[:2], FEW, 64, seed=0)


@pytest.mark.parametrize("stages", [3, 16, 27])
def test_goes_on_after_a_kill(
    model: VGGT,
    scenes: tuple[Scene, ...],
    stats: CalibrationStats,
    wanted: tuple[Sensitivity, ...],
    tmp_path: Path,
    stages: int,
) -> None:
    """In the forward walk and in the backward one; nothing that was finished is done again."""
    given = (model, stats, scenes[:2], FEW, 64)
    with pytest.raises(KilledError):
        estimate(*given, seed=0, journal_folder=tmp_path, on_stage=killed_after(stages))
    seen: list[int] = []
    again = estimate(*given, seed=0, journal_folder=tmp_path, on_stage=lambda time: seen.append(time.done))
    assert again == wanted
    assert seen == list(range(stages + 1, 2 * len(model.stages()) + 1))


@pytest.mark.parametrize("stages", [1, 5])
def test_a_stage_cut_short_is_done_again(
    model: VGGT,
    scenes: tuple[Scene, ...],
    stats: CalibrationStats,
    wanted: tuple[Sensitivity, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stages: int,
) -> None:
    """Killed when its cotangents are written but the journal does not say so yet."""
    given = (model, stats, scenes[:2], FEW, 64)
    put = probes._Journals.put_errors
    left = iter(range(stages))

    def put_errors(journals: probes._Journals, index: int, errors: probes.Errors) -> None:
        if next(left, None) is None:
            raise KilledError
        put(journals, index, errors)

    with monkeypatch.context() as patched:
        patched.setattr(probes._Journals, "put_errors", put_errors)
        with pytest.raises(KilledError):
            estimate(*given, seed=0, journal_folder=tmp_path)
    assert estimate(*given, seed=0, journal_folder=tmp_path) == wanted


def test_the_model_is_left_as_it_was(model: VGGT, scenes: tuple[Scene, ...], stats: CalibrationStats) -> None:
    modules = dict(model.named_modules())
    model.requires_grad_(True)
    estimate(model, stats, scenes[:1], FEW, 64, seed=0)
    assert all(after is modules[name] for name, after in model.named_modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_bad_input_is_refused(model: VGGT, scenes: tuple[Scene, ...], stats: CalibrationStats) -> None:
    with pytest.raises(InputError, match="scenes"):
        estimate(model, stats, [], CANDIDATES, 64, seed=0)
    with pytest.raises(UnknownNameError, match=r"frame_blocks\.99"):
        estimate(model, stats, scenes, {"frame_blocks.99": ("fp16",)}, 64, seed=0)
    with pytest.raises(UnknownNameError, match="w3a16"):
        estimate(model, stats, scenes, {"point_head": ("w3a16",)}, 64, seed=0)
    with pytest.raises(UsageError, match="0 probes"):
        estimate(model, stats, scenes, CANDIDATES, 64, seed=0, probes=0)


def test_statistics_of_another_model_are_refused(model: VGGT, scenes: tuple[Scene, ...]) -> None:
    with pytest.raises(InputError, match=r"point_head\."):
        estimate(model, NO_STATS, scenes[:1], {"point_head": ("w8a8",)}, 64, seed=0)


@pytest.mark.parametrize("name", ["pose_enc", "depth", "points"])
def test_a_cotangent_measures_the_error_of_its_output(name: str) -> None:
    """E <v, d>^2 / 2 is the error that the ablation would report of a small difference d."""
    generator = torch.Generator().manual_seed(0)
    reference = {
        "pose_enc": torch.randn(1, 2, 9, generator=generator),
        "depth": 1 + torch.rand(1, 2, 5, 5, generator=generator),
        "points": torch.randn(1, 2, 5, 5, 3, generator=generator),
    }
    difference = 1e-3 * torch.randn(reference[name].shape, generator=generator)
    declared = ARCHITECTURE.outputs
    (output,) = (each for each in declared if each.name == name)
    error = weighted(declared, output_errors(declared, reference | {name: reference[name] + difference}, reference))
    scale = tensor_scale(declared, reference)
    pulled = (cotangent(output, reference[name], scale, f"{n}") for n in range(4000))
    samples = [float((each * difference).sum()) ** 2 / 2 for each in pulled]
    assert np.mean(samples) == pytest.approx(error, rel=0.1)


@pytest.mark.usefixtures("exact_arithmetic")
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 5), (7, 6)),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 9, 9)),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (2, 4, 5, 5)),
    ],
)
def test_weight_gradients_are_those_of_autograd(layer: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    output = layer(x)
    by_output = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    (expected,) = torch.autograd.grad(output, [layer.weight], by_output)
    torch.testing.assert_close(weight_gradient(layer, x, by_output), expected)


def test_sampled_rows_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over draws is the error of the whole layer."""
    torch.manual_seed(0)
    layer = nn.Linear(32, 64).requires_grad_(False)
    x, by_output = torch.randn(8, 32), torch.randn(8, 64)

    def error(rows: int, key: str) -> float:
        monkeypatch.setattr(probe_layers, "SAMPLED_ROWS", rows)
        sample = sampled(layer, by_output, key)
        forms = quantized_forms(key, sample.layer, ("w4a16",), 32, NO_STATS)
        return layer_errors(sample, x, torch.zeros_like(x), forms)["w4a16"]

    whole = error(64, "all")
    assert np.mean([error(16, str(n)) for n in range(200)]) == pytest.approx(whole, rel=0.05)
