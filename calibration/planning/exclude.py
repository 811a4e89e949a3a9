"""Keeping named blocks and linears at 16 bits, whatever the planner would choose (``--exclude``).

On a device without FP16 they are kept in FP32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from types import MappingProxyType

from vggt_edge.calibration.plan import Assignment, PrecisionPlan
from vggt_edge.calibration.planning.cost import BlockCost
from vggt_edge.calibration.planning.patterns import fitting
from vggt_edge.calibration.quantization.form import LayerShape
from vggt_edge.calibration.scheme import scheme
from vggt_edge.devices.errors import UsageError
from vggt_edge.devices.profile import DeviceProfile


def kept_scheme(profile: DeviceProfile) -> str:
    """What excluded layers stay at."""
    return "fp16" if "fp16" in profile.runnable else "fp32"


def excluded_layers(blocks: Iterable[BlockCost], patterns: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """By block, the layers whose ``block`` or ``block.layer`` name a pattern matches from its start to its end.

    ``UsageError`` for a pattern that matches nothing: a typing error must not silently quantize what was to be kept.
    """
    blocks = tuple(blocks)
    paths = {
        block.name: [f"{block.name}.{_relative(block.name, one.name)}" for one in block.layers] for block in blocks
    }
    hits = {pattern: fitting(pattern, chain(paths, *paths.values())) for pattern in patterns}
    hit = frozenset[str]().union(*hits.values())
    found: dict[str, tuple[str, ...]] = {}
    for block in blocks:
        whole = block.name in hit
        names = [_relative(block.name, path) for path in paths[block.name] if whole or path in hit]
        if names:
            found[block.name] = tuple(names)
    if unused := [pattern for pattern in patterns if not hits[pattern]]:
        raise UsageError(
            f"--exclude {sorted(unused)[0]!r} matches no block and no linear",
            expected="a regular expression that matches a whole name, such as 'frame_blocks.1' or '.*mlp.fc2'",
            remedy="list the names with `vggt-edge inspect plan.json`",
        )
    return found


def pin(blocks: Iterable[BlockCost], excluded: Mapping[str, tuple[str, ...]], kept: str) -> tuple[BlockCost, ...]:
    """The cost of the blocks when the excluded layers stay at ``kept``."""
    return tuple(
        replace(
            block,
            layers=tuple(
                replace(layer, pinned=kept)
                if _relative(block.name, layer.name) in excluded.get(block.name, ())
                else layer
                for layer in block.layers
            ),
        )
        for block in blocks
    )


def is_whole(block: BlockCost, excluded: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether every layer of the block is excluded: then its only scheme is that of kept layers."""
    return len(excluded.get(block.name, ())) == len(block.layers)


def record(
    plan: PrecisionPlan,
    blocks: Iterable[BlockCost],
    excluded: Mapping[str, tuple[str, ...]],
    by_runtime: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> PrecisionPlan:
    """The plan with the exclusions in its assignments and their reasons.

    by_runtime: layers that the runtime computes in floating point whatever their scheme. They are named only in blocks
    that are narrower than that.
    """
    whole = {block.name for block in blocks if is_whole(block, excluded)}
    bits = scheme(plan.kept_scheme).weight_bits
    assignments = [_recorded(one, excluded.get(one.block, ()), one.block in whole, bits) for one in plan.assignments]
    computed = (_computed_wide(one, by_runtime.get(one.block, ()), bits) for one in assignments)
    return replace(plan, assignments=tuple(computed))


def kept_by(blocks: Iterable[BlockCost], keeps: Callable[[LayerShape], bool]) -> dict[str, tuple[str, ...]]:
    """Layers that ``keeps`` names, by block."""
    found = {
        block.name: tuple(_relative(block.name, one.name) for one in block.layers if keeps(one.shape))
        for block in blocks
    }
    return {block: layers for block, layers in found.items() if layers}


def _computed_wide(assignment: Assignment, layers: tuple[str, ...], bits: int) -> Assignment:
    more = tuple(layer for layer in layers if layer not in assignment.excluded)
    if not more or scheme(assignment.scheme).weight_bits >= bits:
        return assignment
    reason = f"{assignment.reason}; the runtime computes {', '.join(more)} in {bits} bits, so they stay so"
    return replace(assignment, reason=reason, excluded=(*assignment.excluded, *more))


def _recorded(assignment: Assignment, layers: tuple[str, ...], whole: bool, bits: int) -> Assignment:
    if not layers:
        return assignment
    reason = f"{assignment.reason}; --exclude keeps {', '.join(layers)} at {bits} bits"
    return replace(assignment, reason=f"kept at {bits} bits by --exclude" if whole else reason, excluded=layers)


def _relative(block: str, layer: str) -> str:
    return layer.removeprefix(block + ".")
