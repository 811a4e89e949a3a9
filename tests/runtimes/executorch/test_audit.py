"""Findings of what XNNPACK does not run."""

from __future__ import annotations

import pytest

from vggt_edge.runtimes.executorch.assemble import Undelegated
from vggt_edge.runtimes.executorch.audit import findings
from vggt_edge.runtimes.executorch.sdk import installed

pytestmark = pytest.mark.skipif(not installed(), reason="ExecuTorch is not installed")


def test_one_finding_per_block_and_operator_with_the_reason() -> None:
    """Sorted, counted, and telling an unknown operator from an unknown form of a known one."""
    left = [
        Undelegated("frame_blocks.1", "aten.cumsum.default"),
        Undelegated("frame_blocks.0", "aten.mean.dim"),
        Undelegated("frame_blocks.1", "aten.cumsum.default"),
    ]
    first, second = findings(left)
    assert (first.block, first.op_type) == ("frame_blocks.0", "mean.dim")
    assert "does not take it in this form" in first.what
    assert (second.block, second.op_type) == ("frame_blocks.1", "cumsum.default")
    assert "no such operator; 2 of them" in second.what


def test_nothing_left_is_no_finding() -> None:
    """As in every export of a VGGT."""
    assert findings(()) == ()
