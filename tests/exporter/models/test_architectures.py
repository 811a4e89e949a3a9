"""An architecture is one file: found by its name, recognised by its tensors, and good for the whole command."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

from vggt_edge.devices.errors import InputError
from vggt_edge.exporter import models
from vggt_edge.exporter.models.architectures import architectures, recognise
from vggt_edge.exporter.models.checkpoint import read_checkpoint, save_checkpoint
from vggt_edge.exporter.models.registry import MINI, open_model

SECOND = Path(__file__).with_name("architectures")
NAME = f"{models.__name__}.tinydepth"


@pytest.fixture
def tinydepth(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module of the second architecture, in the package's folder as far as Python can tell."""
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(SECOND)])
    yield importlib.import_module(NAME)
    sys.modules.pop(NAME)


@pytest.fixture
def tiny_checkpoint(tinydepth: ModuleType, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    one, config = tinydepth.ARCHITECTURE, tinydepth.TinyDepthConfig()
    state = one.build(config, one.shape(2, 32, 32), one.heads).state_dict()
    save_checkpoint(
        {name: tensor + 0.1 * torch.randn(tensor.shape) for name, tensor in state.items()},
        config,
        tmp_path / "tiny.safetensors",
    )
    return tmp_path / "tiny.safetensors"


def test_files_with_an_architecture_are_found_by_name(tinydepth: ModuleType) -> None:
    assert {"vggt", "tinydepth"} <= set(architectures())
    assert architectures()["tinydepth"] is tinydepth.ARCHITECTURE
    assert tinydepth.ARCHITECTURE.name == "tinydepth"


def test_a_checkpoint_is_recognised_by_its_tensors(tiny_checkpoint: Path) -> None:
    """Also without the metadata that names it."""
    assert read_checkpoint(tiny_checkpoint).architecture.name == "tinydepth"
    assert recognise(read_checkpoint(tiny_checkpoint).tensors, "here").name == "tinydepth"
    assert recognise(open_model(MINI).tensors, "here").name == "vggt"


def test_tensors_that_fit_nothing_name_the_nearest_and_what_it_lacks(tinydepth: ModuleType) -> None:
    with pytest.raises(InputError) as raised:
        recognise({"encoder.proj.weight", "encoder.frame_token", "other"}, "some.pt")
    text = str(raised.value)
    assert "fit no architecture; the nearest is tinydepth" in text
    assert "lacks 1 of 3 tensors" in text
    assert "depth_head.project.weight" in text
    assert "vggt" in raised.value.expected


@pytest.mark.parametrize("prefix", ["", "module.", "net.model."])
def test_the_nearest_is_found_behind_a_prefix(prefix: str) -> None:
    """A file that is one tensor short; of two architectures that look alike, the original is named."""
    names = {prefix + key for key in architectures()["vggt"].keys[1:]}
    with pytest.raises(InputError, match=r"nearest is vggt, but it lacks 1 of 5 .*: aggregator\.camera_token"):
        recognise(names, "some.pt")


def test_without_a_name_in_common_no_architecture_is_near() -> None:
    with pytest.raises(InputError, match="the 1 tensors fit no architecture, and have no name in common with any"):
        recognise({"stem.weight"}, "some.pt")


def test_tensors_that_fit_two_architectures_are_refused(tinydepth: ModuleType) -> None:
    both = {*tinydepth.ARCHITECTURE.keys, *architectures()["vggt"].keys}
    with pytest.raises(InputError, match="fit 2 architectures: tinydepth, vggt"):
        recognise(both, "some.pt")


def test_sizes_that_nothing_says_are_asked_for(tiny_checkpoint: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.safetensors"
    save_file(dict(read_checkpoint(tiny_checkpoint).tensors), bare)
    with pytest.raises(InputError, match="does not say its sizes"):
        read_checkpoint(bare)


@pytest.mark.parametrize(
    ("text", "said"), [("{", "JSON"), ('{"name": 3}', "name"), ('{"wings": 2}', "wings"), ("[" * 5000, "recursion")]
)
def test_wrong_sizes_name_the_field(tinydepth: ModuleType, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tinydepth.ARCHITECTURE.read_config(text)


@pytest.mark.parametrize("target", ["host-cpu", "jetson-orin"])
def test_the_whole_command_exports_it(
    target: str, tiny_checkpoint: Path, tmp_path: Path, vggt_edge: Callable[..., Any]
) -> None:
    """No special tokens, patches of 8 pixels, depth alone: transforms, sensitivities, tuning, graph, gates, report."""
    out = tmp_path / "bundle"
    finished = vggt_edge(
        "export", "--model", tiny_checkpoint, "--target", target, "--frames", "2", "--calibration-scenes", "2",
        "--validation-scenes", "2", "--effort", "fast", "--json", "-o", out,
    )  # fmt: skip
    assert finished.code == 0, finished.err
    report = json.loads((out / "validation.json").read_text())
    assert report["status"] == "passed"
    gates = {(row["output"], row["against"], row["tolerance_key"]) for row in report["rows"] if row["tolerance_key"]}
    assert ("depth", "fp32", "depth_abs_rel_vs_fp32_max") in gates
    assert ("depth", "ground_truth", "abs_rel_increase_max") in gates
    assert {row["output"] for row in report["rows"]} <= {"depth", "all"}
    golden = load_file(out / "golden.safetensors")
    assert golden["fp32/depth"].shape == (1, 2, 32, 32)
    assert np.isfinite(golden["simulation/depth"]).all()


def test_its_heads_and_patches_are_checked_by_the_command(
    tiny_checkpoint: Path, tmp_path: Path, vggt_edge: Callable[..., Any]
) -> None:
    common = ("export", "--model", tiny_checkpoint, "--target", "host-cpu", "--dry-run", "-o", tmp_path / "out")
    camera = vggt_edge(*common, "--outputs", "camera")
    assert camera.code == 2
    assert "depth" in camera.err
    odd = vggt_edge(*common, "--resolution", "28")
    assert odd.code == 2
    assert "patches of 8" in odd.err
