"""An error goes through JSON and comes back as the error that it was."""

from __future__ import annotations

import json

import pytest

from vggt_edge.devices.errors import InputError, UnknownNameError, VggtEdgeError


@pytest.mark.parametrize(
    "error",
    [
        VggtEdgeError("ended by SIGTERM"),
        InputError("it is empty", where="a/b", expected="a file", remedy="write one"),
        UnknownNameError("output", "normals", ("depth", "camera"), where="--outputs"),
    ],
)
def test_an_error_comes_back_from_its_fields(error: VggtEdgeError) -> None:
    back = VggtEdgeError.of(json.loads(json.dumps(error.fields)))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert back.exit_code == error.exit_code
