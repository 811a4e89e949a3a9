"""The code that the device kits in Python share: JSON cases of all kits, limits, verdicts, the schema of the result."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vggt_edge.calibration.metrics.figures import drift
from vggt_edge.runtimes.common.kit import COMMON, kit_script

common = kit_script(COMMON)
CASES = Path(__file__).parents[2] / "kits" / "json_cases"
ONES = np.ones((2, 2), np.float32)


def test_it_is_python_3_8_and_needs_nothing_but_numpy() -> None:
    """The file runs on devices, whose Python may be 3.8."""
    tree = ast.parse(COMMON.read_text(), feature_version=(3, 8))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported - set(sys.stdlib_module_names) == {"numpy"}


# --- JSON -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", sorted(CASES.glob("*/*.json")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_json_cases_of_all_kits(case: Path) -> None:
    """Every kit takes and refuses the same."""
    if case.parent.name == "accepted":
        assert common.parse_json(case.read_bytes()) == json.loads(case.read_bytes())
    else:
        with pytest.raises(ValueError, match=r"."):
            common.parse_json(case.read_bytes())


@pytest.mark.parametrize("content", [b"[" * 200_000, b'"' + b"\\" * 100_001, b"1" * 5000, b"[" + b"1," * 5, b"\xff"])
def test_hostile_text_is_one_clear_error(content: bytes, tmp_path: Path) -> None:
    """No other exception, whatever the depth and length."""
    path = tmp_path / "kit.json"
    path.write_bytes(content)
    with pytest.raises(common.KitError, match=r"cannot use .*kit\.json"):
        common.read_json(path)


def test_a_long_file_is_not_read(tmp_path: Path) -> None:
    """Nor is an endless one."""
    (tmp_path / "kit.json").write_bytes(b" " * 101)
    with pytest.raises(common.KitError, match="more than 100 bytes"):
        common.read_json(tmp_path / "kit.json", longest=100)


# --- fields -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 0.0, -300, 200.0001, 201, True, "30", [30], {}, 1e300, 10**300])
def test_limits_that_everything_or_nothing_passes_are_refused(value: object) -> None:
    """Limits of SQNR are in dB up to 200, limits of angles in degrees up to 180."""
    with pytest.raises(ValueError, match="at most 200"):
        common.limit_of({"limit": value}, "limit", common.MOST_DB)


@pytest.mark.parametrize("value", [None, 0.001, 30, 200.0])
def test_limits_that_judge(value: float | None) -> None:
    """Or none, which judges nothing."""
    assert common.limit_of({"limit": value}, "limit", common.MOST_DB) == value


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\0b", "../\u0301x", "/\u0301", "a\nb", "\x7f", 7])
def test_names_that_may_leave_the_folder(name: object) -> None:
    """A slash is found also where a combining character hides it."""
    assert not common.is_plain_name(name)


# --- verdicts ---------------------------------------------------------------------------------------------------------


def judged(*predictions: np.ndarray, limit: float | None = 30.0) -> list[dict[str, object]]:
    judge = common.Judge({"depth": ONES}, {"depth": ONES}, limit)
    for prediction in predictions:
        judge.add({"depth": prediction})
    return list(judge.outputs)


NAN = np.array([[1, 1], [np.nan, 1]], np.float32)


@pytest.mark.parametrize(
    ("predictions", "limit", "expected"),
    [
        ([ONES], 30.0, "passed"),
        ([ONES * 2], 30.0, "failed"),
        ([ONES], None, "not_judged"),
        ([ONES * 0], None, "not_judged"),
        ([NAN], None, "failed"),
        ([ONES, NAN, ONES], 30.0, "failed"),
        ([ONES, ONES, ONES * 2], 30.0, "failed"),
        ([ONES, ONES * 1.0001, ONES], 30.0, "passed"),
    ],
)
def test_verdicts(predictions: list[np.ndarray], limit: float | None, expected: str) -> None:
    """Every prediction counts, and what was not judged has not passed."""
    entries = judged(*(one.astype(np.float32) for one in predictions), limit=limit)
    assert [entry["status"] for entry in entries] == [expected]
    assert common.verdict(entries) == expected
    json.dumps(entries, allow_nan=False)


def test_no_output_is_no_pass() -> None:
    """An empty list has judged nothing."""
    assert common.verdict([]) == "not_judged"


def test_predictions_unlike_the_first_are_counted() -> None:
    """Predictions are compared by their bytes."""
    judge = common.Judge({"depth": ONES}, {}, 30.0)
    for values in (ONES, ONES * np.float32(1.001), ONES, ONES * 2):
        judge.add({"depth": values})
    assert judge.unlike_first == 2
    assert judge.outputs[0]["against_simulation"]["max_abs"] == 1.0


def pose(turn: float) -> np.ndarray:
    values = np.zeros((1, 2, 9), np.float32)
    values[0, 1, :3] = (1, 0, 0)
    values[0, :, 6] = 1
    values[0, 1, 3:7] = (0, np.sin(turn / 2), 0, np.cos(turn / 2))
    return values


@pytest.mark.parametrize(("limit", "expected"), [(None, "passed"), (10.0, "passed"), (1.0, "failed")])
def test_poses_are_judged_by_angles_as_well(limit: float | None, expected: str) -> None:
    """A turn of 5 degrees."""
    judge = common.Judge({"pose_enc": pose(0.5)}, {}, 10.0, limit)
    judge.add({"pose_enc": pose(0.5 + np.radians(5))})
    (entry,) = judge.outputs
    assert entry["pose"]["rotation_degrees"] == pytest.approx(5, abs=1e-3)
    assert entry["status"] == expected


def test_poses_of_another_form_are_refused() -> None:
    """Nine numbers for each frame."""
    with pytest.raises(common.KitError, match="pose_enc has the shape"):
        common.Judge({"pose_enc": np.zeros((2, 9), np.float32)}, {}, None)


def test_figures_are_those_of_the_report() -> None:
    """The kit takes angles in the way of ``calibration.metrics``."""
    random = np.random.default_rng(0)
    reference = random.normal(size=500).astype(np.float32)
    values = (reference + random.normal(scale=0.01, size=500)).astype(np.float32)
    ours, theirs = common.drift(values, reference), drift(values, reference)
    for name in ("cosine", "sqnr_db", "max_abs", "p99_abs", "max_rel", "p99_rel"):
        assert ours[name] == pytest.approx(getattr(theirs, name)), name


# --- the result -------------------------------------------------------------------------------------------------------


def test_a_link_in_the_way_of_a_result_is_not_followed(tmp_path: Path) -> None:
    """A link would have the kit write over a file elsewhere."""
    other = tmp_path / "other"
    other.write_text("mine")
    (tmp_path / "result.json.part").symlink_to(other)
    common.write_result(tmp_path / "result.json", {"status": "passed"})
    assert other.read_text() == "mine"
    assert json.loads((tmp_path / "result.json").read_text()) == {"status": "passed"}


def test_keys_are_those_of_the_docs(repository: Path) -> None:
    """Every key of the common part stands in docs/how-to/kit-result.md."""
    text = (repository / "docs" / "how-to" / "kit-result.md").read_text()
    entry = judged(ONES)[0]
    result = common.result_of({"target": "t", "plan_digest": "d"}, [entry])
    for key in (*result, *entry, *common.measured_ms([1.0]), *common.quantiles([1.0])):
        assert f"`{key}" in text or f"{key}`" in text, key


@pytest.mark.parametrize("python", ["python3.8"])
def test_the_cases_on_an_old_python(python: str) -> None:
    """Python's parser has gaps of its own."""
    import shutil

    found = shutil.which(python)
    if found is None or subprocess.run([found, "-c", ""], capture_output=True).returncode != 0:
        pytest.skip(f"{python} is not installed")
    script = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import kit_common\n"
        "def taken(path):\n"
        "    try:\n        kit_common.parse_json(path.read_bytes())\n        return 'accepted'\n"
        "    except ValueError:\n        return 'refused'\n"
        "wrong = [p.name for p in pathlib.Path(sys.argv[2]).glob('*/*.json') if taken(p) != p.parent.name]\n"
        "sys.exit(', '.join(wrong))"
    )
    done = subprocess.run([found, "-c", script, str(COMMON.parent), str(CASES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
