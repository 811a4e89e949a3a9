"""Sampling finds broken scenes, depends on the seed and the pixels and on nothing else, and handles odd pools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vggt_edge.calibration.observation.sampling import FAR, SceneFeatures, choose, features, outlier_scores, sample
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.scenes.synthetic import render_scene
from vggt_edge.devices.errors import InputError, UsageError
from vggt_edge.exporter.models.checkpoint import build_model
from vggt_edge.exporter.models.config import OUTPUTS, InputShape
from vggt_edge.exporter.models.registry import open_model
from vggt_edge.exporter.models.vggt import VGGT

FRAMES, SIDE = 2, 28  # of the tiny model
POOL = 12


def made_up(count: int, frames: int = 4, seed: int = 0) -> SceneFeatures:
    """Features of scenes that were never looked at; digests in an order of their own."""
    rng = np.random.default_rng(seed)
    digests = tuple(f"{int(number):08x}" for number in rng.permutation(count) + 1)
    names = tuple(f"scene {digest}" for digest in digests)
    return SceneFeatures(names, digests, rng.normal(size=(count, 6)), rng.uniform(-1, 1, (count, frames - 1)))


def noise(count: int, frames: int = FRAMES, seed: int = 0) -> tuple[Scene, ...]:
    images = np.random.default_rng(seed).random((count, frames, 3, SIDE, SIDE), dtype=np.float32)
    return tuple(Scene(f"noise-{index}", image, ("file",) * frames) for index, image in enumerate(images))


def digests_of(found: SceneFeatures, indices: Sequence[int]) -> set[str]:
    return {found.digests[index] for index in indices}


def test_the_same_seed_chooses_the_same_and_another_seed_others() -> None:
    """Bytes and digests are equal; over a few seeds not all choices are."""
    found = made_up(40)
    first, again = choose(found, 8, 3), choose(found, 8, 3)
    assert (first.to_json(), first.digest) == (again.to_json(), again.digest)
    assert len({choose(found, 8, seed).chosen for seed in range(5)}) > 1
    assert choose(found, 8, 4).digest != first.digest


@given(st.integers(2, 40), st.integers(1, 12), st.integers(0, 99))
def test_permuting_the_pool_permutes_the_choice(pool: int, count: int, seed: int) -> None:
    """What is chosen, dropped and clustered together follows from the pixels and the seed; so does every score."""
    found = made_up(pool, seed=seed)
    moments = np.round(found.moments)  # ties among the scores
    found = replace(found, moments=moments)
    order = np.random.default_rng(seed).permutation(pool)
    names, digests = (tuple(texts[index] for index in order) for texts in (found.names, found.digests))
    moved = SceneFeatures(names, digests, moments[order], found.frames[order])
    plain, permuted = choose(found, count, seed), choose(moved, count, seed)
    assert digests_of(found, plain.chosen) == digests_of(moved, permuted.chosen)
    assert digests_of(found, plain.dropped) == digests_of(moved, permuted.dropped)
    assert permuted.scores == tuple(plain.scores[index] for index in order)
    assert permuted.clusters == tuple(plain.clusters[index] for index in order)


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0, 0.99), st.integers(0, 9))
def test_as_many_as_asked_for_and_none_that_was_dropped(pool: int, count: int, share: float, seed: int) -> None:
    """The farthest are dropped, the share where none is far from all, and never so many that too few are left."""
    found = made_up(pool, seed=seed)
    chosen = choose(found, count, seed, drop_share=share)
    assert len(set(chosen.chosen)) == len(chosen.chosen) == min(pool, count)
    assert not set(chosen.chosen) & set(chosen.dropped)
    kept = set(range(pool)) - set(chosen.dropped)
    scores = outlier_scores(found.moments)
    far = min(int((scores > FAR * np.median(scores)).sum()), pool // 2)
    wanted = max(int(share * pool), far) if share else 0
    assert len(chosen.dropped) == max(0, min(wanted, pool - count))
    assert all(scores[index] >= max(scores[sorted(kept)]) for index in chosen.dropped)
    assert [index for index, label in enumerate(chosen.clusters) if label < 0] == list(chosen.dropped)


def test_every_cluster_is_drawn_from() -> None:
    """Two groups of scenes, one of them much larger: both are among a choice of two."""
    alike = np.concatenate([np.full((18, 3), 0.9), np.full((2, 3), -0.9)])
    jitter = np.random.default_rng(0).normal(0, 0.01, alike.shape)
    found = replace(made_up(20), frames=alike + jitter)
    for seed in range(10):
        chosen = choose(found, 2, seed, drop_share=0.0)
        assert sorted(index >= 18 for index in chosen.chosen) == [False, True]


def test_broken_scenes_are_dropped_however_many_they_are() -> None:
    """Twelve of forty alike: beyond the share they would be a cluster, from which one is drawn every time."""
    moments = np.random.default_rng(0).normal(size=(40, 6))
    moments[:12] += 100.0
    found = replace(made_up(40), moments=moments)
    for seed in range(5):
        chosen = choose(found, 4, seed)
        assert chosen.dropped == tuple(range(12))
    assert choose(found, 30, 0).dropped != tuple(range(12))  # as many as are asked for stay
    assert choose(found, 4, 0, drop_share=0.0).dropped == ()


def test_the_different_ones_of_a_pool_of_copies_are_not_dropped_as_far() -> None:
    """Most scenes are the same, so there is no distance to measure others by."""
    moments = np.zeros((20, 2))
    moments[:3] = [[1.0, 2.0], [3.0, 1.0], [2.0, 5.0]]
    assert len(choose(replace(made_up(20), moments=moments), 4, 0).dropped) == 4


def test_a_pool_that_is_no_larger_is_kept_whole() -> None:
    """Nothing is dropped, and a note says why."""
    for count in (5, 6):
        chosen = choose(made_up(5), count, 0)
        assert (chosen.chosen, chosen.dropped) == ((0, 1, 2, 3, 4), ())
        assert "all 5 scenes are kept" in chosen.notes[0]


def test_fewer_scenes_than_clusters() -> None:
    """As many clusters as scenes are wanted, at most, and without a note: that is no compromise."""
    chosen = choose(made_up(10), 3, 0, clusters=8)
    assert len(chosen.chosen) == 3
    assert len(set(chosen.clusters) - {-1}) == 3
    assert chosen.notes == ()


@pytest.mark.parametrize(("count", "share"), [(0, 0.2), (-1, 0.2), (2, 1.0), (2, -0.1), (2, float("nan"))])
def test_a_count_or_share_without_meaning_is_refused(count: int, share: float) -> None:
    """At least one scene, and a share in [0, 1)."""
    with pytest.raises(UsageError, match="drop share") as caught:
        choose(made_up(4), count, 0, drop_share=share)
    assert "[0, 1)" in caught.value.expected


def test_a_feature_in_which_most_scenes_agree_says_nothing() -> None:
    """No division by its spread of zero; other features still tell scenes apart."""
    moments = np.random.default_rng(0).normal(size=(9, 2))
    moments[:, 0] = 7.0
    moments[4, 1] = 100.0
    scores = outlier_scores(moments)
    assert np.isfinite(scores).all()
    assert scores.argmax() == 4


def test_scenes_of_one_frame_are_clustered_by_moments(model: VGGT) -> None:
    """There are no other frames to be alike."""
    single = VGGT(model.config, InputShape(1, SIDE, SIDE))
    single.load_state_dict(model.state_dict())
    chosen = sample(single.fix_constants(), noise(POOL, frames=1), 4, 0)
    assert len(chosen.chosen) == 4
    assert len(set(chosen.clusters) - {-1}) == 4
    assert chosen.notes == ("scenes of one frame: clustered by their moments",)


def test_constant_and_identical_scenes_make_one_cluster(model: VGGT) -> None:
    """No NaN and no warning where nothing differs; what there is too little of is noted."""
    for value in (0.0, 0.5, 1.0):
        scenes = [replace(scene, images=np.full_like(scene.images, value)) for scene in noise(POOL)]
        chosen = sample(model, scenes, 4, 0)
        assert len(chosen.chosen) == 4
        assert set(chosen.scores) == {0.0}
        assert set(chosen.clusters) == {-1, 0}
        assert chosen.notes == ("1 of 4 clusters: the scenes do not differ more",)


def test_scores_do_not_depend_on_the_order_of_the_scenes(model: VGGT) -> None:
    """On a real model: the same scenes in reverse give the same choice."""
    scenes = noise(POOL)
    plain, reverse = sample(model, scenes, 4, 1), sample(model, scenes[::-1], 4, 1)
    assert plain.scores == reverse.scores[::-1]
    chosen = {plain.names[index] for index in plain.chosen}
    assert chosen == {reverse.names[index] for index in reverse.chosen}
    assert plain.digests == tuple(scene.digest for scene in scenes)
    assert json.loads(plain.to_json())["chosen"] == list(plain.chosen)


def test_a_killed_walk_goes_on_where_it_was(model: VGGT, tmp_path: Path) -> None:
    """What was seen before the kill counts, and a finished walk is not walked again."""
    scenes = noise(4)

    def killed(time: object) -> None:
        if getattr(time, "done", 0) == 7:
            raise KeyboardInterrupt

    whole = features(model, scenes)
    with pytest.raises(KeyboardInterrupt):
        features(model, scenes, folder=tmp_path, on_stage=killed)
    steps: list[int] = []
    found = features(model, scenes, folder=tmp_path, on_stage=lambda time: steps.append(time.done))
    assert steps[0] > 1
    for one in (found, features(model, scenes, folder=tmp_path, on_stage=lambda time: pytest.fail("walked again"))):
        np.testing.assert_array_equal(one.moments, whole.moments)
        np.testing.assert_array_equal(one.frames, whole.frames)


def test_the_walk_ends_at_the_last_deep_layer(model: VGGT) -> None:
    """Heads cost time and say nothing here; progress counts up to what is walked."""
    times: list[tuple[str, int, int]] = []
    features(model, noise(2), on_stage=lambda time: times.append((time.stage, time.done, time.total)))
    stage, done, total = times[-1]
    assert done == total == len(times)
    assert stage == "global_blocks.3"


def test_a_pixel_that_is_not_finite_names_stage_and_scene(model: VGGT) -> None:
    """The FP32 model says NaN: no score can be had."""
    broken = noise(3)[1]
    broken.images[0, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="noise-1") as caught:
        sample(model, [*noise(1), broken, *noise(3)[2:]], 2, 0)
    assert "blocks" in caught.value.where
    assert caught.value.where in caught.value.what


def test_a_pool_of_nothing_or_of_unequal_shapes_is_refused(model: VGGT) -> None:
    """With the way out, or with the scene's name."""
    with pytest.raises(InputError, match="no scenes") as caught:
        sample(model, [], 2, 0)
    assert "--scenes" in caught.value.remedy
    with pytest.raises(InputError, match="noise-0 is of shape"):
        sample(model, [*noise(1), *noise(1, frames=3)], 1, 0)


def test_scenes_with_black_frames_stand_out_among_rooms() -> None:
    """On vggt-mini, which was trained on such rooms: they have the highest scores, and none is chosen."""
    model = build_model(open_model("vggt-mini"), InputShape(4, 84, 84), OUTPUTS)
    scenes = [render_scene(1_000 + index, 4, 84, 84) for index in range(20)]
    for index in (2, 9, 15):
        scenes[index].images[[0, 2] if index == 9 else [1, 3]] = 0
    found = features(model, scenes)
    assert {int(index) for index in outlier_scores(found.moments).argsort()[-3:]} == {2, 9, 15}
    for seed in range(5):
        assert {2, 9, 15} <= set(choose(found, 8, seed).dropped)
