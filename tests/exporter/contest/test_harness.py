"""A small contest through the command: rows, resuming, rules and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from vggt_edge.calibration.observation.collect import model_digest
from vggt_edge.calibration.scheme import scheme
from vggt_edge.devices.errors import UnknownNameError, VggtEdgeError
from vggt_edge.exporter.commands.accuracy import MAX_SEEDS
from vggt_edge.exporter.contest.columns import COLUMNS
from vggt_edge.exporter.contest.harness import SCHEMES, Request
from vggt_edge.exporter.contest.methods import METHODS, Method, check_rules, load_methods
from vggt_edge.exporter.models.checkpoint import build_model
from vggt_edge.exporter.models.config import OUTPUTS, InputShape
from vggt_edge.exporter.models.registry import open_model
from vggt_edge.exporter.models.vggt import VGGT
from vggt_edge.exporter.steps.inputs import CALIBRATION_SEED, SEEDS_PER_RUN, synthetic

Run = Callable[..., Any]
SMALL = ("--methods", "rtn", "--scene-count", "2", "--calibration-scenes", "1", "--frames", "2")


def contest(vggt_edge: Run, *arguments: str | Path) -> dict[str, Any]:
    finished = vggt_edge("bench", "accuracy", *SMALL, *arguments, "--json")
    assert finished.code == 0, finished.err
    result: dict[str, Any] = finished.document["result"]
    return result


def results_of(work: Path) -> dict[str, int]:
    """When each result was written."""
    return {path.name: path.stat().st_mtime_ns for path in work.iterdir()}


def test_a_row_per_scheme_and_method_beside_fp32(vggt_edge: Run, fits: Callable[[str, object], None]) -> None:
    """FP32 is first and does not drift from itself; 4-bit activations drift more than int8 ones."""
    found = contest(vggt_edge, "--schemes", "w8a8,w4a4d", "--seeds", "1")
    fits("bench-accuracy-answer", {"result": found, "exit_code": 0})
    rows = found["rows"]
    assert [(row["scheme"], row["method"]) for row in rows] == [("fp32", "fp32"), ("w8a8", "rtn"), ("w4a4d", "rtn")]
    assert all(set(row["mean"]) == {column.key for column in COLUMNS} for row in rows)
    assert rows[0]["mean"]["output_error"] == 0.0
    assert rows[0]["mean"]["points_sqnr_db"] > rows[1]["mean"]["points_sqnr_db"] > rows[2]["mean"]["points_sqnr_db"] > 0
    assert (found["variant"], found["scene_count"], found["seeds"]) == ("plain", 2, 1)
    assert found["verdicts"] == []


def test_a_contest_goes_on_where_it_was(vggt_edge: Run, tmp_path: Path) -> None:
    """What is there is read, also where it was altered by hand; a new seed is all that is measured."""
    work = ("--schemes", "w8a8", "--work", tmp_path)
    first = contest(vggt_edge, *work, "--seeds", "1")
    written = results_of(tmp_path)
    assert contest(vggt_edge, *work, "--seeds", "1") == first
    (path,) = tmp_path.glob("w8a8-rtn-0-*.json")
    document = json.loads(path.read_text())
    document["figures"]["auc30"] = -7.0
    path.write_text(json.dumps(document))
    more = contest(vggt_edge, *work, "--seeds", "2")
    (new,) = results_of(tmp_path).keys() - written.keys()
    assert new.startswith("w8a8-rtn-1-")
    mine = json.loads((tmp_path / new).read_text())["figures"]["auc30"]
    assert more["rows"][1]["mean"]["auc30"] == pytest.approx((mine - 7.0) / 2)
    assert more["rows"][1]["spread"]["auc30"] > 0


def test_as_a_table(vggt_edge: Run) -> None:
    """One line per row, with the titles above; scenes of one frame have no relative pose, and say so."""
    options = ("--frames", "1", "--schemes", "w8a8d", "--seeds", "1", "--planted")
    finished = vggt_edge("bench", "accuracy", *SMALL, *options)
    lines = finished.out.splitlines()
    assert lines[0].split("\t")[:3] == ["scheme", "method", "AUC@30"]
    assert [line.split("\t")[:3] for line in lines[1:]] == [["fp32", "fp32", "-"], ["w8a8d", "rtn", "-"]]
    assert "1/1 w8a8d, rtn, seed 0: done" in finished.err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("accuracy", "--schemes", "w8a8,w3a3"), "w8a8d"),
        (("accuracy", "--methods", "magic"), "smoothquant"),
        (("accuracy", "--methods", ","), "--methods names nothing"),
        (("accuracy", "--seeds", "0"), "--seeds"),
        (("accuracy", "--seeds", "100"), "--seeds"),
        (("accuracy", "--calibration-scenes", "0"), "--calibration-scenes"),
        (("--frames", "2", "accuracy"), "--frames stands before accuracy"),
        (("precision",), "precision"),
    ],
)
def test_refusals(vggt_edge: Run, arguments: Sequence[str], part: str) -> None:
    """Before anything is measured."""
    finished = vggt_edge("bench", *arguments)
    assert (finished.code, finished.out) == (2, "")
    assert part in finished.err
    assert "render" not in finished.err


def test_unknown_names_list_the_known_ones() -> None:
    """As a library, too."""
    with pytest.raises(UnknownNameError) as caught:
        Request(schemes=("w2a2",))
    assert all(name in caught.value.expected for name in SCHEMES)
    with pytest.raises(UnknownNameError) as caught:
        load_methods(("nonsense",), "fast")
    assert all(name in caught.value.expected for name in METHODS)


def test_no_two_seeds_calibrate_on_one_scene() -> None:
    """Up to the last seed that is allowed."""
    names = [
        scene.name
        for seed in (0, 1, MAX_SEEDS - 1)
        for scene in synthetic(CALIBRATION_SEED, 3, seed * SEEDS_PER_RUN, 1, 14, 14)
    ]
    assert len(set(names)) == 9


@pytest.fixture
def mini() -> VGGT:
    return build_model(open_model("vggt-mini"), InputShape(1, 14, 14), OUTPUTS)


def test_a_method_that_leaves_layers_alone_gets_no_row(mini: VGGT) -> None:
    """Less quantization is no better method."""
    method = Method("idle", "somewhere", lambda model, scenes, scheme, seed: deepcopy(model))
    with pytest.raises(VggtEdgeError, match=r"leaves \d+ layers") as caught:
        check_rules(method, deepcopy(mini), mini, model_digest(mini))
    assert caught.value.where == "somewhere"


def test_a_method_that_changes_its_model_gets_no_row(mini: VGGT) -> None:
    """It would change what the next method is given; one that keeps the rules passes."""
    (rtn,) = load_methods(("rtn",), "fast")
    digest = model_digest(mini)
    quantized = rtn.quantize(mini, synthetic(CALIBRATION_SEED, 1, 0, 1, 14, 14), scheme("w4a16"), 0)
    assert isinstance(quantized, VGGT)
    check_rules(rtn, quantized, mini, digest)
    with torch.no_grad():
        mini.camera_head.empty_pose_tokens += 1.0
    with pytest.raises(VggtEdgeError, match="changed the model"):
        check_rules(rtn, quantized, mini, digest)
