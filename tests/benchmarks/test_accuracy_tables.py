"""The section about methods: what is bold, what a goal reads like, and that only the section is rewritten."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import accuracy
import pytest
from accuracy_tables import BEGIN, END, goals, lead, render, scheme_table, schemes

from vggt_edge.exporter.contest.columns import COLUMNS, FP32, Row
from vggt_edge.exporter.contest.harness import Accuracy
from vggt_edge.exporter.contest.verdict import judge


def row(scheme: str, method: str, seeds: int = 3, **changes: float) -> Row:
    mean = {column.key: 1.0 for column in COLUMNS} | {"auc30": 80.0} | changes
    return Row(scheme, method, seeds, mean, {} if seeds == 1 else {column.key: 0.1 for column in COLUMNS})


def found(*rows: Row, variant: str = "plain") -> Accuracy:
    every = (row(FP32, FP32, seeds=1), *rows)
    return Accuracy("vggt-mini", variant, 64, 8, 4, 3, "balanced", every, judge(every))


def test_the_best_of_a_column_is_bold_and_fp32_does_not_compete() -> None:
    """Highest or lowest, as the column counts; all that read the same; seconds never."""
    rows = [row("w8a8", "rtn", auc30=70.0, abs_rel=0.5), row("w8a8", "awq", auc30=75.0, abs_rel=0.6, seconds=9.0)]
    lines = scheme_table(row(FP32, FP32, seeds=1), rows).splitlines()
    fp32, rtn, awq = (line.split(" | ") for line in lines[2:])
    assert (fp32[0], fp32[1]) == ("| FP32", "80.00")
    assert (rtn[1], awq[1]) == ("70.00 ± 0.10", "**75.00 ± 0.10**")
    assert (rtn[4], awq[4]) == ("**0.5000 ± 0.1000**", "0.6000 ± 0.1000")
    assert (rtn[2], awq[2]) == ("**1.00 ± 0.10**", "**1.00 ± 0.10**")
    assert "**" not in rtn[-1] + awq[-1]
    assert "AUC@30 ↑ | AUC@15 ↑" in lines[0]
    assert "AbsRel ↓" in lines[0]


def test_a_row_alone_is_not_bold() -> None:
    """There is nothing that it is better than."""
    assert "**" not in scheme_table(row(FP32, FP32, seeds=1), [row("w8a8", "rtn")])


def test_goals_met_and_missed_of_both_variants() -> None:
    """A verdict names its scheme and variant."""
    met, missed = row("w8a8", "ours", auc30=79.95), row("w8a8", "ours", auc30=78.0)
    text = goals([found(met), found(missed, variant="planted")])
    goal = "within 0.1 AUC@30 of FP32, or within the spread over seeds"
    assert f"| W8A8, static per tensor | {goal} | met | -0.05 against" in text
    assert "| W8A8, static per tensor, outliers planted |" in text
    assert "| **missed** | -2.00 against FP32, spread 0.10: missed by 1.90 |" in text
    assert "without rows of ours" in goals([found(row("w8a8", "rtn"))])


def test_the_section_has_every_table_and_says_how_it_was_made() -> None:
    """Schemes without rows have no table; ablations come last."""
    plain = found(row("w4a16", "rtn"), row("w8a8", "rtn"), row("w8a8", "ours"))
    ablation = found(row("w8a8", "ours"), row("w8a8", "ours-rotation"))
    text = render([plain], [ablation])
    heads = [line for line in text.splitlines() if line.startswith("## ")]
    ours = "W8A8, static per tensor"
    assert heads == ["## Goals", f"## {ours}", "## W4A16, groups of 64", f"## Ablation: {ours}"]
    assert "| ours-rotation |" in text
    assert "Ablations:" not in text
    assert "Ablations: 2 of these seeds." in render([plain], [replace(ablation, seeds=2)])
    assert "64 held-out rooms of 4 frames, mean ± standard deviation over 3 seeds" in lead(plain)
    assert len(schemes(plain)) == 2


def test_measures_into_a_folder_and_rewrites_its_section_alone(tmp_path: Path) -> None:
    """Twice the same section, the second time out of the folder."""
    out, work = tmp_path / "benchmarks.md", tmp_path / "work"
    out.write_text("# Benchmarks\n\nkept\n")
    arguments = ["--work", str(work), "--out", str(out), "--parts", "plain", "--methods", "rtn", "--schemes", "w8a8d"]
    arguments += ["--seeds", "1", "--scene-count", "1", "--calibration-scenes", "1"]
    assert accuracy.main(arguments) == 0
    text = out.read_text()
    assert text.startswith(f"# Benchmarks\n\nkept\n\n# Methods against each other\n{BEGIN}\n")
    assert text.endswith(f"{END}\n")
    assert "## W8A8, dynamic per token\n" in text
    assert accuracy.main(arguments) == 0
    assert out.read_text() == text


@pytest.mark.parametrize("arguments", [["--parts", "all"], ["--seeds", "0"], []])
def test_refuses_wrong_arguments(arguments: list[str], tmp_path: Path) -> None:
    """Before anything is measured."""
    with pytest.raises(SystemExit):
        accuracy.main([*arguments, *(["--work", str(tmp_path)] if arguments else [])])


def test_an_unknown_method_is_an_error_of_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the command tells it."""
    assert accuracy.main(["--work", str(tmp_path), "--parts", "plain", "--methods", "magic"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown method 'magic'")
