"""The constants that decode poses."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vggt_edge.calibration.metrics.geometry import quaternion_to_rotation
from vggt_edge.runtimes.tensorrt.camera_io.cameras import rotation_table

parts = st.floats(-2, 2).filter(lambda part: abs(part) > 1e-3)


@given(st.tuples(parts, parts, parts, parts))
def test_a_quaternion_and_its_negative_are_one_rotation(quaternion: tuple[float, ...]) -> None:
    for sign in (1, -1):
        q = sign * np.array(quaternion)
        ours = np.outer(q, q).reshape(16) @ rotation_table() / (q @ q)
        assert np.allclose(ours.reshape(3, 3), quaternion_to_rotation(q))
