"""Finding a model by name, and the one that is embedded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from vggt_edge.devices.errors import InputError, UnknownNameError
from vggt_edge.exporter.models import mini
from vggt_edge.exporter.models.checkpoint import build_model
from vggt_edge.exporter.models.config import OUTPUTS, InputShape
from vggt_edge.exporter.models.registry import MINI, MINI_WEIGHTS, embedded_models, open_model


def test_vggt_mini_loads_and_runs() -> None:
    checkpoint = open_model(MINI)
    assert checkpoint.source == MINI
    assert checkpoint.config == mini.CONFIG
    side = mini.CONFIG.native_resolution
    model = build_model(checkpoint, InputShape(2, side, side), OUTPUTS)
    with torch.no_grad():
        outputs = model(model.example_input() + 0.5)
    assert all(torch.isfinite(tensor).all() for tensor in outputs)


def test_vggt_mini_fits_its_budget() -> None:
    assert MINI_WEIGHTS.stat().st_size <= 32 * 2**20


def test_embedded_models_are_named_after_their_files() -> None:
    assert embedded_models()[MINI] == MINI_WEIGHTS


def test_a_file_and_the_folder_that_holds_it(tmp_path: Path) -> None:
    shutil.copy(MINI_WEIGHTS, tmp_path / "model.safetensors")
    by_file, by_folder = open_model(str(tmp_path / "model.safetensors")), open_model(str(tmp_path))
    assert by_file.digest == by_folder.digest == open_model(MINI).digest


def test_a_folder_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint in folder"):
        open_model(str(tmp_path))


@pytest.mark.parametrize("name", ["vggt-midi", "", "a/b/c", "~nobody-of-that-name/x", "x" * 5000, "nul\0byte"])
def test_an_unknown_name_lists_the_choices(name: str) -> None:
    with pytest.raises(UnknownNameError) as raised:
        open_model(name)
    for choice in (MINI, "a folder", "hub id"):
        assert choice in raised.value.expected


@pytest.mark.parametrize("name", ["missing.safetensors", "./somewhere/else/missing.pt"])
def test_a_missing_file_is_no_hub_id(name: str) -> None:
    with pytest.raises(InputError, match="no checkpoint at"):
        open_model(name)


def test_a_hub_id_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HF_HUB_OFFLINE is set for all tests; the cache is an empty folder."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="cannot be reached") as raised:
        open_model("facebook/VGGT-1B")
    assert "facebook/VGGT-1B" in str(raised.value)
    assert "--model" in raised.value.remedy


@pytest.mark.parametrize("name", ["../escape", "a--b/c..d", "-/-"])
def test_an_impossible_hub_id_is_an_input_error(name: str) -> None:
    with pytest.raises(InputError, match=name):
        open_model(name)
