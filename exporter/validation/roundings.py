"""Roundings or a fault: two reasons why an artifact departs from the simulation of its own plan.

Where activations are quantized, the last bit of a float decides a rounding. One that goes the other way grows with the
depth of the model, so that two sound implementations end about as far from each other as each is from FP32. Such an
artifact is no further from FP32 than the simulation is. A fault adds an error of its own to that.
"""

from __future__ import annotations

from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.scheme import SCHEMES

# Two independent errors of one size are 3 dB further from each other than each is from FP32; 1 dB is for chance.
MARGIN_DB = 4.0


def rounds_activations(plan: PrecisionPlan) -> bool:
    """Whether the plan quantizes activations anywhere; without that no rounding of theirs can flip."""
    schemes = {plan.rest_scheme, *(assignment.scheme for assignment in plan.assignments)}
    return any(SCHEMES[name].activation_bits < 16 for name in schemes)


def explains(artifact_db: float, simulation_db: float, apart_db: float) -> str:
    """Why flipped roundings explain what is ``apart``, for a report; empty where they do not.

    All three are SQNR in dB: of the artifact against FP32, of the simulation against FP32, of one against the other.
    """
    if artifact_db < simulation_db - MARGIN_DB or apart_db < simulation_db - MARGIN_DB:
        return ""
    return (
        f"roundings that went the other way, not a fault: {artifact_db:.1f} dB from FP32, "
        f"and the simulation itself {simulation_db:.1f} dB"
    )
