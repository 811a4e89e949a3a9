"""What a path may be, how frames are dealt to scenes, and requests that make no sense."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vggt_edge.calibration.scenes.opening import open_scenes, share, strides
from vggt_edge.devices.errors import InputError, ResourceError, UsageError


@given(st.integers(1, 400), st.integers(1, 12), st.integers(1, 20))
def test_scenes_are_disjoint_wide_and_within_the_source(count: int, frames: int, scenes: int) -> None:
    groups = strides(count, frames, scenes)
    assert len(groups) == min(scenes, count // frames)
    taken = [index for group in groups for index in group]
    assert len(set(taken)) == len(taken)
    assert all(0 <= index < count for index in taken)
    for group in groups:
        assert len(group) == frames
        assert set(np.diff(group)) <= {count // frames}


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 30))
def test_scenes_are_dealt_evenly(available: list[int], total: int) -> None:
    quotas = share(available, total)
    assert sum(quotas) == min(total, sum(available))
    assert all(quota <= limit for quota, limit in zip(quotas, available, strict=True))
    unfilled = [quota for quota, limit in zip(quotas, available, strict=True) if quota < limit]
    assert not unfilled or max(quotas) - min(unfilled) <= 1


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file") as caught:
        open_scenes(tmp_path / "none", frames=2, long_side=28)
    assert caught.value.where == str(tmp_path / "none")


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="no images and no scenes") as caught:
        open_scenes(tmp_path, frames=2, long_side=28)
    assert caught.value.where == str(tmp_path)


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match="holds no scenes") as caught:
        open_scenes(tmp_path / "a.txt", frames=2, long_side=28)
    assert caught.value.where == str(tmp_path / "a.txt")


def test_captures_that_are_too_small_are_passed_over_and_counted(tmp_path: Path) -> None:
    for name, count in (("full", 2), ("poor", 1), ("poorer", 1)):
        (tmp_path / name).mkdir()
        for index in range(count):
            Image.new("RGB", (20, 20)).save(tmp_path / name / f"{index}.png")
    notes: list[str] = []
    (scene,) = open_scenes(tmp_path, frames=2, long_side=28, note=notes.append)
    assert scene.name == "full-00"
    assert notes == [f"passed over in {tmp_path.name}: captures with fewer than 2 frames: 2"]
    with pytest.raises(InputError, match="2 frames found, fewer than the 3") as caught:
        open_scenes(tmp_path, frames=3, long_side=28)
    assert caught.value.where == str(tmp_path / "full")


def test_a_sub_folder_left_out_by_the_cap_gives_no_scene(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (20, 20)).save(tmp_path / name / "0.png")
    scenes = open_scenes(tmp_path, frames=1, long_side=28, max_scenes=2)
    assert [scene.name for scene in scenes] == ["a-00", "b-00"]


@pytest.mark.parametrize(
    "request_",
    [
        {"frames": 0, "long_side": 28},
        {"frames": 1, "long_side": 28, "max_scenes": 0},
        {"frames": 1},
        {"frames": 1, "long_side": 28, "shape": (28, 28)},
        {"frames": 1, "shape": (28, 30)},
        {"frames": 1, "long_side": 3},
    ],
)
def test_requests_that_make_no_sense(tmp_path: Path, request_: dict[str, int]) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    with pytest.raises(UsageError) as caught:
        open_scenes(tmp_path, **request_)
    assert not isinstance(caught.value, InputError)


def test_a_file_that_may_not_be_read_is_a_matter_of_permissions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests may run as root, whom no permission stops: the refusal itself is imitated."""
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ResourceError, match="permission denied") as caught:
        open_scenes(tmp_path, frames=1, long_side=28)
    assert caught.value.where == str(tmp_path / "a.png")


def test_the_real_photographs(photos: Path) -> None:
    first, second = open_scenes(photos, frames=4, long_side=112)
    assert first.images.shape == (4, 3, 112, 84)
    assert first.sources == ("pyramid_01.jpg", "pyramid_03.jpg", "pyramid_05.jpg", "pyramid_07.jpg")
    assert not set(first.sources) & set(second.sources)
    assert 0.1 < first.images.mean() < 0.9


def test_the_real_video_shows_what_the_photographs_show(photos: Path) -> None:
    """The photographs are its frames, one second apart, so each has a near twin among frames one second apart."""
    stills = open_scenes(photos, frames=1, shape=(70, 56))
    film = open_scenes(photos / "pyramid.mp4", frames=1, shape=(70, 56), max_scenes=29)
    assert film[0].sources == ("pyramid.mp4#frame=0",)
    distance = [min(np.abs(still.images - shot.images).mean() for shot in film) for still in stills]
    unrelated = np.abs(film[0].images - film[-1].images).mean()
    assert np.median(distance) < unrelated / 2
