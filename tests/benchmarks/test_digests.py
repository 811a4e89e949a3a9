"""Two lists of digests differ where they say so, and in nothing else."""

from __future__ import annotations

from pathlib import Path

from digests import CASES, differences, read


def test_what_is_gone_new_or_changed_is_told_of_the_cases_that_both_lists_hold(tmp_path: Path) -> None:
    (tmp_path / "before").write_text("a1  x/w8a8  plan.json\nb1  x/w8a8  old.bin\nc1  y/fp16  plan.json\n")
    (tmp_path / "after").write_text("a2  x/w8a8  plan.json\nb1  x/w8a8  new.bin\n")
    before, after = read(tmp_path / "before"), read(tmp_path / "after")
    assert differences(before, after) == [
        "new: x/w8a8  new.bin",
        "gone: x/w8a8  old.bin",
        "changed: x/w8a8  plan.json",
    ]
    assert differences(before, before) == []


def test_no_two_cases_share_a_name() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
