"""Which scenes calibrate and which judge: as many as asked for, never the same ones, and an error where too few are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vggt_edge.devices.errors import InputError, UsageError
from vggt_edge.exporter.models.config import InputShape
from vggt_edge.exporter.models.registry import MINI, open_model
from vggt_edge.exporter.request import ExportRequest, resolve_request
from vggt_edge.exporter.steps.inputs import (
    CALIBRATION_SCENES,
    VALIDATION_SCENES,
    SceneSets,
    choose_scenes,
    in_8_bits,
    scenes_to_judge,
)

Choose = Callable[..., SceneSets]


def counts(sets: SceneSets) -> tuple[int, int, int]:
    return len(sets.calibration), len(sets.probes), len(sets.validation)


def names(sets: SceneSets) -> set[str]:
    return {scene.name for scene in (*sets.calibration, *sets.validation)}


def choose(**settings: object) -> SceneSets:
    return choose_scenes(resolve_request({"frames": 1, "resolution": "14", **settings}), open_model(MINI))


@pytest.fixture
def photographs(tmp_path: Path) -> Callable[[int], Path]:
    def make(count: int) -> Path:
        for index in range(count):
            Image.fromarray(np.full((14, 14, 3), index, np.uint8)).save(tmp_path / f"{index:02}.png")
        return tmp_path

    return make


@pytest.mark.parametrize(("calibration", "validation"), [(None, None), (1, None), (None, 3), (3, 2), (9, 10)])
def test_synthetic_scenes_are_as_many_as_asked_for(calibration: int | None, validation: int | None) -> None:
    sets = choose(calibration_scenes=calibration, validation_scenes=validation)
    wanted = calibration or CALIBRATION_SCENES
    assert counts(sets) == (wanted, min(wanted, 2), validation or VALIDATION_SCENES)
    assert len(names(sets)) == len(sets.calibration) + len(sets.validation)


@pytest.mark.parametrize(
    ("there", "calibration", "validation", "expected"),
    [
        (4, None, None, (3, 2, 1)),  # a fourth is held out
        (20, None, None, (15, 2, 5)),
        (30, None, None, (16, 2, 6)),
        (4, 2, None, (2, 2, 1)),
        (4, None, 2, (2, 2, 2)),
        (4, 1, 3, (1, 1, 3)),
        (4, 3, 1, (3, 2, 1)),
        (20, 12, None, (12, 2, 5)),
        (20, 12, 8, (12, 2, 8)),
    ],
)
def test_photographs_are_limited_to_what_was_asked_for(
    photographs: Callable[[int], Path],
    there: int,
    calibration: int | None,
    validation: int | None,
    expected: tuple[int, int, int],
) -> None:
    sets = choose(scenes=photographs(there), calibration_scenes=calibration, validation_scenes=validation)
    assert counts(sets) == expected
    assert sets.held_out
    assert len(names(sets)) == expected[0] + expected[2]


@pytest.mark.parametrize(("calibration", "validation"), [(4, None), (None, 4), (3, 2), (1, 9)])
def test_too_many_for_what_is_there_is_refused(
    photographs: Callable[[int], Path], calibration: int | None, validation: int | None
) -> None:
    with pytest.raises(UsageError, match="there are not") as caught:
        choose(scenes=photographs(4), calibration_scenes=calibration, validation_scenes=validation)
    assert "at most 4" in caught.value.expected
    assert "--calibration-scenes" in caught.value.remedy


def test_a_single_scene_serves_for_everything_but_not_for_two(photographs: Callable[[int], Path]) -> None:
    folder = photographs(1)
    for asked in ({}, {"calibration_scenes": 1}, {"calibration_scenes": 1, "validation_scenes": 1}):
        sets = choose(scenes=folder, **asked)
        assert counts(sets) == (1, 1, 1)
        assert not sets.held_out
    with pytest.raises(UsageError):
        choose(scenes=folder, calibration_scenes=2)


def test_what_is_there_beyond_the_wanted_scenes_is_a_pool_to_choose_from(photographs: Callable[[int], Path]) -> None:
    folder = photographs(30)
    assert choose(scenes=folder, calibration_scenes=23).pool == ()
    sets = choose(scenes=folder, calibration_scenes=5)  # beside three to validate on
    assert len(sets.pool) == 20
    assert sets.pool[:5] == sets.calibration
    assert not {scene.name for scene in sets.pool} & {scene.name for scene in sets.validation}


def test_scenes_do_not_depend_on_how_many_are_asked_for() -> None:
    few, many = (choose(calibration_scenes=count) for count in (2, 5))
    assert [scene.digest for scene in few.calibration] == [scene.digest for scene in many.calibration[:2]]
    assert ExportRequest().calibration_scenes is None


def colourful(folder: Path, count: int, size: tuple[int, int] = (64, 48)) -> Path:
    folder.mkdir()
    for index in range(count):
        noise = np.random.default_rng([index, *size]).integers(0, 256, (6, 8, 3)).astype(np.uint8)
        Image.fromarray(noise).resize(size).save(folder / f"{index}.png")
    return folder


def test_one_capture_calibrates_and_another_one_judges(tmp_path: Path) -> None:
    """The other pictures have another aspect ratio: they are fitted to the size of the first."""
    mine, other = colourful(tmp_path / "mine", 6), colourful(tmp_path / "other", 3, (48, 80))
    sets = choose(scenes=mine, validate_on=other, resolution="28x42")
    assert {scene.name for scene in sets.calibration} == {f"mine-{index:02}" for index in range(6)}
    assert [scene.name for scene in sets.validation] == [f"other-{index:02}" for index in range(3)]
    assert {scene.images.shape for scene in (*sets.calibration, *sets.validation)} == {(1, 3, 28, 42)}
    assert sets.held_out
    synthetic = choose(validate_on=other, resolution="28x42", calibration_scenes=2, validation_scenes=2)
    assert [scene.name for scene in synthetic.validation] == ["other-00", "other-01"]
    assert counts(synthetic) == (2, 2, 2)


def test_what_calibrates_does_not_judge(tmp_path: Path) -> None:
    mine = colourful(tmp_path / "mine", 4)
    (tmp_path / "again").mkdir()
    (tmp_path / "again/x.png").write_bytes((mine / "2.png").read_bytes())
    for path in (mine, tmp_path / "again"):
        with pytest.raises(UsageError, match="also there to calibrate on") as caught:
            choose(scenes=mine, validate_on=path)
        assert caught.value.where == f"--validate-on {path}"


def test_more_to_judge_on_than_there_are_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not 3 scenes to validate on") as caught:
        choose(validate_on=colourful(tmp_path / "other", 2), validation_scenes=3)
    assert "at most 2" in caught.value.expected


def test_what_is_passed_over_in_either_capture_is_told(tmp_path: Path) -> None:
    mine, other = colourful(tmp_path / "mine", 4), colourful(tmp_path / "other", 2, (48, 80))
    (mine / "a.heic").write_bytes(b"x")
    (other / "b.gif").write_bytes(b"x")
    assert choose(scenes=mine, validate_on=other).notes == (
        "passed over in mine: .heic files (not read): 1",
        "passed over in other: .gif files (not read): 1",
    )


def test_a_count_reads_no_pictures(tmp_path: Path) -> None:
    """For a dry run: the first one gives the size, the others are not looked into."""
    mine = colourful(tmp_path / "mine", 8)
    for index in range(1, 8):
        (mine / f"{index}.png").write_bytes((mine / f"{index}.png").read_bytes()[:60])
    with pytest.raises(InputError, match="cut short"):
        choose(scenes=mine, resolution="42")
    request = resolve_request({"frames": 1, "resolution": "42", "scenes": mine})
    sets = choose_scenes(request, open_model(MINI), read=False)
    assert counts(sets) == (6, 2, 2)
    assert sets.size == (1, 28, 42)


def test_scenes_to_judge_are_fitted_to_the_model(tmp_path: Path) -> None:
    request = resolve_request({"frames": 1, "image_input": True})
    sets = scenes_to_judge(request, colourful(tmp_path / "other", 4, (48, 80)), InputShape(2, 42, 56))
    assert {scene.images.shape for scene in sets.validation} == {(2, 3, 42, 56)}
    assert np.array_equal(sets.validation[0].images, in_8_bits(sets.validation[0]).images)
