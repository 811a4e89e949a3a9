"""Sizes that travel in a file's metadata: what is written is read back, and nothing implausible is believed."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vggt_edge.exporter.models.config import VGGTConfig, config_from_json, config_to_json
from vggt_edge.exporter.models.mini import CONFIG


@pytest.mark.parametrize("config", [VGGTConfig(), CONFIG])
def test_round_trip(config: VGGTConfig) -> None:
    assert config_from_json(config_to_json(config)) == config


@pytest.mark.parametrize(
    "change",
    [
        {"embed_dim": 0},
        {"embed_dim": -128},
        {"embed_dim": 10**9},
        {"embed_dim": 128.0},
        {"embed_dim": True},
        {"embed_dim": "128"},
        {"embed_dim": [128]},
        {"embed_dim": None},
        {"embed_dim": 130},
        {"depth": 10**6},
        {"heads": 3},
        {"camera_heads": 5},
        {"taps": 3},
        {"taps": [0, 1, 2]},
        {"taps": [0, 1, 2, 2]},
        {"taps": [1, 0, 2, 5]},
        {"taps": [0, 1, 2, 9]},
        {"dpt_channels": [8, 8, 8, 6]},
        {"dpt_channels": {"0": 8}},
        {"dpt_features": 12},
        {"name": 7},
        {"name": "<script>"},
        {"name": "../x"},
        {"name": ""},
        {"extra": 1},
    ],
    ids=str,
)
def test_implausible_sizes_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        config_from_json(json.dumps(asdict(CONFIG) | change))


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "{}", '"vggt"', "[" * 100_000, '{"depth": NaN}', "9" * 5000])
def test_text_that_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        config_from_json(text)


@given(st.dictionaries(st.sampled_from(sorted(asdict(CONFIG))), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)))  # fmt: skip
def test_no_value_gets_past_as_anything_but_a_value_error(change: dict[str, Any]) -> None:
    try:
        config = config_from_json(json.dumps(asdict(CONFIG) | change))
    except ValueError:
        return
    assert config.embed_dim % (4 * config.heads) == 0
    assert config.taps[-1] == config.depth - 1
