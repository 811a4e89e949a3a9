"""What an export will need is said before it starts, and a machine that lacks it is told so."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vggt_edge.calibration.planning.cost import describe_blocks, rest_bytes
from vggt_edge.devices.errors import ResourceError
from vggt_edge.exporter.machine.estimate import (
    PROBE_FORWARDS,
    Estimate,
    Sizes,
    check,
    estimate,
    format_gigabytes,
    measured_macs_per_s,
    shares,
)
from vggt_edge.exporter.models.config import OUTPUTS, InputShape, VGGTConfig
from vggt_edge.exporter.models.vggt import VGGT
from vggt_edge.runtimes.base import Rates
from vggt_edge.runtimes.common.memory import available_memory_bytes
from vggt_edge.runtimes.registry import backend, backends

Run = Callable[..., Any]
CONFIG = VGGTConfig(
    name="tiny", embed_dim=64, dino_depth=1, depth=4, heads=2, position_grid=2, taps=(0, 1, 2, 3),
    camera_trunk_depth=1, camera_heads=2, camera_iterations=2, dpt_features=16, dpt_channels=(8, 8, 16, 16),
)  # fmt: skip


@pytest.fixture(scope="module")
def sizes() -> Sizes:
    shape = InputShape(2, 28, 28)
    model = VGGT(CONFIG, shape, OUTPUTS)
    return Sizes(
        blocks=describe_blocks(model, model.example_input()),
        rest_bytes=rest_bytes(model),
        fp32_bytes=4 * sum(parameter.numel() for parameter in model.parameters()),
        shape=shape,
        embed_dim=CONFIG.embed_dim,
        heads=CONFIG.heads,
        output_values=6 * 2 * 28 * 28,
        calibration=2,
        probe_forwards=5,
        validation=3,
        precision="w8a8",
        lowering=(backend("tensorrt").rates,),
    )


def test_forwards_are_counted_and_scale_with_the_machine(sizes: Sizes) -> None:
    forward_s = sum(block.macs for block in sizes.blocks) / 1e9
    slow, fast = estimate(sizes, 1e9), estimate(sizes, 2e9)
    by_step = {step.step: step for step in slow.steps}
    assert by_step["calibrate"].forward_seconds == pytest.approx(2 * forward_s)
    assert by_step["validate"].forward_seconds == pytest.approx(9 * forward_s)
    assert by_step["sensitivity"].seconds == pytest.approx(5 * forward_s)
    assert slow.seconds > fast.seconds
    assert measured_macs_per_s() > 1e8


def test_lower_precision_needs_less_disk(sizes: Sizes) -> None:
    needs = [estimate(replace(sizes, precision=name), 1e9).disk_bytes for name in ("mixed", "w8a8", "w4a16")]
    assert needs == sorted(needs, reverse=True)
    assert len(set(needs)) == 3


def test_the_totals_are_those_of_the_steps(sizes: Sizes) -> None:
    needed = estimate(sizes, 1e9)
    assert needed.memory_bytes == max(step.memory_bytes for step in needed.steps)
    assert needed.disk_bytes == max(step.disk_bytes for step in needed.steps)
    assert needed.seconds == pytest.approx(sum(step.seconds for step in needed.steps))
    assert all(step.seconds >= step.forward_seconds for step in needed.steps)
    assert needed.to_dict()["seconds"] == needed.seconds


@pytest.mark.parametrize("more", [{"calibration": 200}, {"validation": 200}, {"shape": InputShape(9, 280, 280)}])
def test_more_work_needs_more_of_everything(sizes: Sizes, more: dict[str, Any]) -> None:
    little, much = estimate(sizes, 1e9), estimate(replace(sizes, **more), 1e9)
    assert much.seconds > little.seconds
    assert much.disk_bytes > little.disk_bytes
    assert much.memory_bytes >= little.memory_bytes


def test_a_budget_bounds_what_a_mix_can_take(sizes: Sizes) -> None:
    free, bound = (replace(sizes, precision="mixed", max_memory_bytes=most) for most in (None, 1000))
    assert bound.stored_bytes == 1000 < free.stored_bytes


def test_what_else_runs_takes_its_time(sizes: Sizes) -> None:
    """Executors of the artifact take a forward each; a second opinion takes a conversion and a process per scene."""
    apple = (backend("coreml").rates, backend("coreai").rates)
    plain, more = estimate(sizes, 1e9), estimate(replace(sizes, lowering=apple, executions=3), 1e9)
    forward_s = plain.steps[-2].forward_seconds / 3
    assert more.steps[-2].forward_seconds == pytest.approx(5 * forward_s)
    assert more.steps[-3].seconds > 20
    palettes = estimate(replace(sizes, precision="p4a16"), 1e9)
    assert palettes.steps[3].seconds > estimate(replace(sizes, precision="w4a16"), 1e9).steps[3].seconds


def test_a_backend_that_was_never_measured_is_taken_for_slow(sizes: Sizes) -> None:
    known = [estimate(replace(sizes, lowering=(one.rates,)), 1e9).steps[-3].seconds for one in backends().values()]
    assert estimate(replace(sizes, lowering=(Rates(),)), 1e9).steps[-3].seconds == max(known)


def _on_host(sizes: Sizes) -> Estimate:
    return estimate(replace(sizes, lowering=(backend("onnxruntime").rates,), writes_form=False), 1e12)


def test_a_backend_that_compiles_nothing_needs_less(sizes: Sizes) -> None:
    compiled, plain = estimate(sizes, 1e12), _on_host(sizes)
    assert plain.memory_bytes < compiled.memory_bytes
    assert plain.disk_bytes < compiled.disk_bytes


def test_exact_ablation_holds_a_forward_and_leaves_nothing_on_disk(sizes: Sizes) -> None:
    pulled, ablated = (estimate(replace(sizes, whole_forward=whole), 1e9).steps[2] for whole in (False, True))
    assert (ablated.forward_seconds, ablated.disk_bytes) == (0, 0)
    assert pulled.forward_seconds > 0
    assert pulled.disk_bytes > 0


def test_the_full_size_is_estimated_from_shapes_alone() -> None:
    """Against peaks measured with VGGT-1B on two photographs, w8a8, one scene to calibrate on and one to judge by."""
    config, shape = VGGTConfig(), InputShape(2, 518, 420)
    with torch.device("meta"):
        model = VGGT(config, shape, OUTPUTS).to("meta").eval()
        blocks = describe_blocks(model, model.example_input())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    needed = estimate(
        Sizes(
            blocks=blocks,
            rest_bytes=rest_bytes(model),
            fp32_bytes=4 * parameters,
            shape=shape,
            embed_dim=config.embed_dim,
            heads=config.heads,
            output_values=6 * 2 * 518 * 420,
            calibration=1,
            probe_forwards=1 + PROBE_FORWARDS,
            validation=1,
            precision="w8a8",
            lowering=(backend("tensorrt").rates,),
        ),
        macs_per_s=32e9,
    )
    memory = {step.step: step.memory_bytes / 1e9 for step in needed.steps}
    assert memory["calibrate"] == pytest.approx(1.74, rel=0.3)
    assert memory["sensitivity"] == pytest.approx(3.35, rel=0.3)
    assert memory["validate"] == pytest.approx(5.9, rel=0.3)
    assert 2.4e9 < needed.disk_bytes < 5e9
    assert 300 < needed.seconds < 1500


def test_lines_for_people(sizes: Sizes) -> None:
    needed = Estimate(estimate(sizes, 1e9).steps, 4_100_000_000, 620_000_000)
    assert needed.text.endswith(" s, 4.1 GB memory, 620 MB disk")
    assert needed.text.startswith("about ")
    lines = dict(shares(needed))
    assert set(lines) >= {"calibrate", "sensitivity", "validate", "memory at most", "disk at most"}
    assert lines["memory at most"] == "4.1 GB"
    assert format_gigabytes(999_400_000) == "999 MB"


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    out, work = tmp_path / "out", tmp_path / "out.work"
    check(Estimate((), 1, 1), out, work)
    with pytest.raises(ResourceError, match="not enough disk") as raised:
        check(Estimate((), 1, 10**18), out, work)
    assert raised.value.exit_code == 7
    with pytest.raises(ResourceError, match="not enough memory"):
        check(Estimate((), available_memory_bytes() * 2, 1), out, work)
    with pytest.raises(ResourceError, match="not enough disk and memory") as raised:
        check(Estimate((), 10**15, 10**18), out, work)
    assert "1000000.0 GB of memory" in raised.value.what
    assert "-o" in raised.value.remedy
    assert "--frames" in raised.value.remedy


def test_what_an_earlier_run_left_is_not_needed_again(tmp_path: Path) -> None:
    work = tmp_path / "out.work"
    work.mkdir()
    free = shutil.disk_usage(tmp_path).free
    with (work / "held").open("wb") as held:
        held.truncate(1 << 40)  # sparse: takes no room
    check(Estimate((), 1, free + (1 << 39)), tmp_path / "out", work)


def test_an_export_is_refused_before_work(vggt_edge: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = SimpleNamespace(total=10**9, used=10**9 - 1000, free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    options = ("--target", "host-cpu", "--frames", "2", "--resolution", "42", "-o", tmp_path / "out")
    refused = vggt_edge("export", *options)
    assert refused.code == 7
    assert "not enough disk" in refused.err
    assert "calibrate" not in refused.err
    dry = vggt_edge("export", *options, "--dry-run")
    assert dry.code == 7
    assert "# would be refused: not enough disk" in dry.out
    assert "error: not enough disk" in dry.err
    document = vggt_edge("export", *options, "--dry-run", "--json").document
    assert document["exit_code"] == 7
    assert "not enough disk" in document["would_be_refused"]
    assert not list(tmp_path.iterdir())


def test_a_part_of_the_line_needs_its_own_steps_alone(vggt_edge: Run, tmp_path: Path) -> None:
    options = ("--target", "host-cpu", "--frames", "2", "--resolution", "42", "-o", tmp_path / "out")
    documents = {verb: vggt_edge(verb, *options, "--dry-run", "--json").document for verb in ("plan", "export")}
    needed = {verb: document["estimate"] for verb, document in documents.items()}
    names = {verb: [step["step"] for step in found["steps"]] for verb, found in needed.items()}
    assert names["plan"] == ["load model and scenes", "prepare", "calibrate", "sensitivity"]
    assert names["export"][:4] == names["plan"]
    assert names["export"][4] == "tune"
    assert needed["plan"]["disk_bytes"] < needed["export"]["disk_bytes"]
