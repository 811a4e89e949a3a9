"""Whether a plan fits the memory that a device gives to a model: its usable memory is a limit that no request lifts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.planning.cost import BlockCost, peak_activation_bytes
from vggt_edge.devices.errors import BudgetError
from vggt_edge.devices.profile import DeviceProfile
from vggt_edge.devices.units import format_bytes


def weight_limit_bytes(blocks: Sequence[BlockCost], profile: DeviceProfile) -> int:
    """The usable memory without the largest live activations: what is left for weights. It may be negative."""
    return profile.usable_memory_bytes - activation_bytes(blocks, profile)


def activation_bytes(blocks: Sequence[BlockCost], profile: DeviceProfile) -> int:
    """The largest live activations of one forward, in the type that the device computes in."""
    return peak_activation_bytes(blocks, 4 if profile.compute_dtype("fp16") == "fp32" else 2)


def fitted(
    plan: PrecisionPlan,
    blocks: Sequence[BlockCost],
    profile: DeviceProfile,
    smaller: Callable[[int], PrecisionPlan] | None = None,
) -> PrecisionPlan:
    """The plan, or where it does not fit the device, the one that ``smaller`` makes for so many bytes of weights.

    ``BudgetError`` if there is none.
    """
    limit = weight_limit_bytes(blocks, profile)
    if plan.weight_bytes <= limit:
        return plan
    if smaller is not None and limit > 0:
        try:
            return smaller(limit)
        except BudgetError as error:
            raise _too_large(plan, blocks, profile) from error
    raise _too_large(plan, blocks, profile)


def _too_large(plan: PrecisionPlan, blocks: Sequence[BlockCost], profile: DeviceProfile) -> BudgetError:
    weights, activations = format_bytes(plan.weight_bytes), format_bytes(activation_bytes(blocks, profile))
    usable = format_bytes(profile.usable_memory_bytes)
    return BudgetError(
        f"the model does not fit {profile.name}: it needs {weights} of weights and about {activations} of activations",
        where=f"device profile {profile.name}",
        expected=f"together at most {usable} of {format_bytes(profile.memory_bytes)} ({profile.usable_memory_reason})",
        remedy="lower --frames or --resolution, choose a narrower --precision, or another --target",
    )
