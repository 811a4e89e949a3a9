"""Which scenes of a pool to calibrate on: noise-filtered diverse sampling (QuantVGGT, arXiv 2509.21302, section 3.3).

Per scene and deep layer, the mean m and the variance s of what leaves the layer. A scene that is far from the others,

    score = sqrt( sum_j ((m_j - mu_j) / sd_j)^2 + sum_j ((s_j - nu_j) / tau_j)^2 )

is taken for noise, and the worst ones are dropped: scenes with black frames, for one, which stretch the ranges of
activations. The rest are clustered by how alike their frames are, the cosines of each later frame's feature to frame
0's, and scenes are drawn from the clusters in turn.

Unlike in the paper, mu and sd are the median and the median absolute deviation: with a fifth of the pool broken, mean
and standard deviation are those of the broken scenes as well, and hide them. And unlike in the released code, the
layers run on whole scenes, cross-frame attention included, and what is dropped stays dropped. The share that is dropped
is a least one: whatever is far from all others goes as well.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vggt_edge.calibration.documents import Finite, read_document
from vggt_edge.calibration.observation.collect import images_of
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.stages.journal import FileJournal, MemoryJournal
from vggt_edge.calibration.stages.walk import Stage, StagedModel, StageTime, walk
from vggt_edge.devices.errors import InputError, UsageError

DROP_SHARE = 0.2
FAR = 2.5  # times the median score: so far from the others is no scene that is only unusual
MOST_DROPPED = 0.5  # of a pool: beyond it medians are no longer those of sound scenes
CLUSTERS = 8
LLOYD_STEPS = 50
_MOMENTS = 2
_NORMAL_MAD = 1.4826  # a normal distribution's standard deviation over its median absolute deviation

Array: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SceneFeatures:
    """Of a pool of n scenes. digests: of their pixels. moments: (n, 2 * layers), mean and variance by layer.

    frames: (n, S - 1), cosines of each later frame's mean feature to frame 0's; (n, 0) for scenes of one frame.
    """

    names: tuple[str, ...]
    digests: tuple[str, ...]
    moments: Array
    frames: Array


@dataclass(frozen=True)
class Sampling:
    """What was chosen, and why. All indices are of the pool; ``chosen`` and ``dropped`` ascend.

    names, digests, scores, clusters: of every scene; cluster -1 where it was dropped. notes: what had to be done
    otherwise.
    """

    names: tuple[str, ...]
    digests: tuple[str, ...]
    seed: int
    drop_share: Finite
    scores: tuple[Finite, ...]
    dropped: tuple[int, ...]
    clusters: tuple[int, ...]
    chosen: tuple[int, ...]
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Canonical: the same bytes for the same sampling."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str = "sampling.json") -> Sampling:
        """Read a sampling back; ``InputError`` says which field is wrong."""
        return read_document(
            cls,
            text,
            what="a choice of scenes",
            where=where,
            expected="the file that `vggt-edge calibrate` writes",
            remedy="calibrate again without --resume",
        )


def sample(
    model: StagedModel,
    scenes: Sequence[Scene],
    count: int,
    seed: int,
    *,
    drop_share: float = DROP_SHARE,
    folder: Path | None = None,
    on_stage: Callable[[StageTime], None] | None = None,
) -> Sampling:
    """Look at all of ``scenes`` with the FP32 model and choose ``count`` of them; all where there are not more.

    folder: for running values, so that a killed walk goes on there. Errors as of ``features`` and ``choose``.
    """
    return choose(features(model, scenes, folder=folder, on_stage=on_stage), count, seed, drop_share=drop_share)


def features(
    model: StagedModel,
    scenes: Sequence[Scene],
    *,
    folder: Path | None = None,
    on_stage: Callable[[StageTime], None] | None = None,
) -> SceneFeatures:
    """Walk the model over the pool, up to the last deep layer.

    ``InputError`` for no scenes, for scenes of unequal shapes, and for activations that are not finite (names stage
    and scene).
    """
    _check_pool(scenes)
    deep = _deep_stages(model)
    count = 1 + [stage.name for stage in model.stages()].index(deep[-1])
    journal = MemoryJournal() if folder is None else FileJournal(folder)

    def look(index: int, stage: Stage) -> None:
        """At what leaves a deep block, which goes with its last reader; what was seen of it stays."""
        for place, scene in enumerate(scenes if stage.name in deep else ()):
            journal.put(place, _seen_of(stage.name), _seen(journal.get(place, stage.writes[0]), stage, scene))

    if journal.stages_done < count:
        for time in walk(model, [images_of(scene) for scene in scenes], journal, finished=look):
            if on_stage is not None:
                on_stage(replace(time, total=count))
            if time.done == count:
                break
    places = range(len(scenes))
    layers = [np.stack([journal.get(place, _seen_of(name)).numpy() for place in places]) for name in deep]
    return SceneFeatures(
        names=tuple(scene.name for scene in scenes),
        digests=tuple(scene.digest for scene in scenes),
        moments=np.concatenate([layer[:, :_MOMENTS] for layer in layers], axis=1),
        frames=layers[-1][:, _MOMENTS:],
    )


def _check_pool(scenes: Sequence[Scene]) -> None:
    if not scenes:
        raise InputError("no scenes to sample from", expected="at least one", remedy="name some with --scenes")
    for scene in scenes:
        if scene.images.shape != scenes[0].images.shape:
            raise InputError(
                f"scene {scene.name} is of shape {scene.images.shape}",
                where=scene.name,
                expected=f"the shape of the first, {scenes[0].images.shape}",
            )


def _deep_stages(model: StagedModel) -> list[str]:
    """The later half of the blocks that have twins and write one value: of VGGT, the deep alternating ones."""
    kinds = Counter(stage.kind for stage in model.stages())
    repeated = [stage for stage in model.stages() if stage.blocks and kinds[stage.kind] > 1 and len(stage.writes) == 1]
    return [stage.name for stage in repeated[len(repeated) // 2 :]]


def _seen_of(stage: str) -> str:
    """The name of what was seen, in the journal."""
    return f"{stage}.seen"


def _seen(tokens: Tensor, stage: Stage, scene: Scene) -> Tensor:
    """Of (frames * tokens, C), what leaves a block: mean, variance, cosines of the later frames to the first."""
    value = tokens.double()
    moments = torch.stack([value.mean(), value.var(correction=0)])
    if not bool(torch.isfinite(moments).all()):
        raise InputError(
            f"{stage.name} of the FP32 model computes NaN or Inf on scene {scene.name}",
            where=stage.name,
            expected="finite values from the FP32 model",
            remedy="check the checkpoint and the scene",
        )
    frames = value.reshape(len(scene.images), -1, value.shape[-1]).mean(dim=1)
    cosines = torch.nn.functional.cosine_similarity(frames[1:], frames[:1], dim=-1)
    return torch.cat([moments, cosines])


def choose(
    found: SceneFeatures, count: int, seed: int, *, drop_share: float = DROP_SHARE, clusters: int = CLUSTERS
) -> Sampling:
    """Drop the farthest scenes, but never below ``count``, and draw ``count`` of the rest by cluster.

    Dropped are the share ``drop_share``, and whatever else is ``FAR`` from all others: what is left of many scenes that
    are broken alike would be a cluster of its own, from which one is always drawn.

    All scenes are kept where there are not more than ``count``; fewer clusters where scenes are few or alike; scenes of
    a single frame have nothing to be clustered by but their moments. ``UsageError`` for a count below 1 or a share
    outside [0, 1).
    """
    if count < 1 or not 0 <= drop_share < 1:
        raise UsageError(f"{count} scenes, drop share {drop_share:g}", expected="at least 1, and a share in [0, 1)")
    pool, scores = len(found.digests), outlier_scores(found.moments)
    of_pool = partial(
        Sampling,
        names=found.names,
        digests=found.digests,
        seed=seed,
        drop_share=drop_share,
        scores=_rounded(scores),
    )
    if pool <= count:
        note = f"all {pool} scenes are kept: no more than {count} were asked for"
        return of_pool(
            dropped=(),
            clusters=(0,) * pool,
            chosen=tuple(range(pool)),
            notes=(note,),
        )
    drop = min(max(int(drop_share * pool), _far(scores)), pool - count) if drop_share else 0
    # Ties are broken by the pixels' digest, so that the order of the pool does not decide.
    order = sorted(range(pool), key=lambda index: (scores[index], found.digests[index]))
    kept = sorted(order[: pool - drop], key=lambda index: found.digests[index])
    notes = [] if found.frames.shape[1] else ["scenes of one frame: clustered by their moments"]
    vectors = (found.frames if found.frames.shape[1] else _standardised(found.moments))[kept]
    labels = _clusters(vectors, min(clusters, count, len(np.unique(vectors, axis=0))), seed)
    if (made := len(set(labels))) < (wanted := min(clusters, count)):
        notes.append(f"{made} of {wanted} clusters: the scenes do not differ more")
    of_scene = dict(zip(kept, labels, strict=True))
    return of_pool(
        dropped=tuple(sorted(order[pool - drop :])),
        clusters=tuple(of_scene.get(index, -1) for index in range(pool)),
        chosen=tuple(sorted(_drawn(kept, labels, count, seed))),
        notes=tuple(notes),
    )


def _far(scores: Array) -> int:
    """How many scores are ``FAR`` beyond the median, of half the pool at most; none where most scenes are the same."""
    limit = FAR * float(np.median(scores))
    return min(int((scores > limit).sum()), int(MOST_DROPPED * len(scores))) if limit > 0 else 0


def outlier_scores(moments: Array) -> Array:
    """(n,) from (n, features): the distance from the medians, in robust standard deviations."""
    return np.asarray(np.linalg.norm(_standardised(moments), axis=1))


def _standardised(moments: Array) -> Array:
    """A feature in which most scenes agree to the last digit says nothing about any of them."""
    centred = moments - np.median(moments, axis=0)
    spread = _NORMAL_MAD * np.median(np.abs(centred), axis=0)
    informative = spread > 1e-9 * np.maximum(np.abs(moments).max(axis=0), 1e-12)
    return np.asarray(np.where(informative, centred / np.where(informative, spread, 1.0), 0.0))


def _clusters(vectors: Array, count: int, seed: int) -> list[int]:
    """K-means with seeding by distance (k-means++, Arthur and Vassilvitskii, SODA 2007) and Lloyd's steps."""
    rng = np.random.default_rng([seed, 0xC1])
    centres = vectors[[int(rng.integers(len(vectors)))]]
    while len(centres) < count:
        nearest = ((vectors[:, None] - centres) ** 2).sum(axis=2).min(axis=1)
        centres = np.concatenate([centres, vectors[[int(rng.choice(len(vectors), p=nearest / nearest.sum()))]]])
    for _ in range(LLOYD_STEPS):
        labels = ((vectors[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
        members = [vectors[labels == label] for label in range(count)]
        pairs = zip(members, centres, strict=True)
        moved = np.array([own.mean(axis=0) if len(own) else centre for own, centre in pairs])
        if np.array_equal(moved, centres):
            break
        centres = moved
    return [int(label) for label in labels]


def _drawn(kept: Sequence[int], labels: Sequence[int], count: int, seed: int) -> list[int]:
    """Uniformly from each cluster in turn, the largest first, until there are enough."""
    rng = np.random.default_rng([seed, 0xD2])
    members_of: dict[int, list[int]] = {}
    for index, label in zip(kept, labels, strict=True):
        members_of.setdefault(label, []).append(index)
    shuffled = (list(rng.permutation(members_of[label])) for label in sorted(members_of))
    waiting = sorted(shuffled, key=len, reverse=True)
    chosen: list[int] = []
    while len(chosen) < count:
        for members in waiting:
            if members and len(chosen) < count:
                chosen.append(int(members.pop()))
    return chosen


def _rounded(scores: Array) -> tuple[float, ...]:
    """To what does not depend on the order of a sum."""
    return tuple(round(float(score), 6) for score in scores)
