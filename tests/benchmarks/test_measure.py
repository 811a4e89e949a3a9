"""The benchmark's own arithmetic: a figure that is read off wrongly looks as good as a right one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import full_size
import modelopt_peer
import onnx
import pytest
import torch
from artifacts import (
    bundle_figures,
    count_nodes,
    digests,
    fp32_bytes,
    is_random,
    onnx_bytes,
    parse_duration,
    stage_of_line,
    stage_seconds,
)
from kill_resume import Kill, choose_kills, kill_and_resume, watch_for
from measure import Run, Watch, format_size, parse_size, run_measured
from onnx import TensorProto, helper
from section import BEGIN, END, render, replace_section

from vggt_edge.exporter.models.checkpoint import save_checkpoint
from vggt_edge.exporter.models.config import VGGTConfig

LOG = """calibrate ...
calibrate: 3/26, 4.0 s to go, peak memory 300 MB
calibrate: done in 7.3 s, peak memory 312 MB
annotate and export ...
annotate and export: done in 2 min 05 s, peak memory 400 MB
validate ...
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_measures_wall_time_and_the_peak_of_a_program(tmp_path: Path) -> None:
    run = run_measured(python("import time; held = bytearray(150_000_000); time.sleep(0.3)"), tmp_path / "log")
    assert (run.ended, run.returncode) == ("finished", 0)
    assert 150e6 < run.peak_bytes < 400e6
    assert 0.3 <= run.wall_s < 20


def test_counts_the_memory_of_children_as_well(tmp_path: Path) -> None:
    child = "import time; held = bytearray(100_000_000); time.sleep(0.8)"
    code = "import subprocess, sys\n"
    code += f"children = [subprocess.Popen([sys.executable, '-c', {child!r}]) for _ in range(2)]\n"
    code += "for child in children: child.wait()"
    run = run_measured(python(code), tmp_path / "log")
    assert min(run.peak_bytes, run.children_peak_bytes) > 200e6 > run.own_peak_bytes


def test_kills_at_the_ceiling_and_says_so(tmp_path: Path) -> None:
    code = "import time\nheld = []\nfor _ in range(600): held.append(bytearray(20_000_000)); time.sleep(0.05)"
    run = run_measured(python(code), tmp_path / "log", ceiling_bytes=200_000_000)
    assert run.ended == "killed at the ceiling"
    assert run.returncode == -9
    assert run.described() == f"killed at {run.peak_bytes / 1e9:.1f} GB after {run.wall_s:.0f} s"
    assert run.peak_bytes < 1e9


def test_keeps_the_exit_code_and_both_outputs(tmp_path: Path) -> None:
    code = "import sys; print('document'); print('progress', file=sys.stderr); sys.exit(4)"
    run = run_measured(python(code), tmp_path / "log", stdout=tmp_path / "out")
    assert (run.returncode, run.described()) == (4, "finished with 4")
    assert (tmp_path / "out").read_text() == "document\n"
    assert (tmp_path / "log").read_text() == "progress\n"


def test_ends_a_program_that_takes_too_long(tmp_path: Path) -> None:
    run = run_measured(python("import time; time.sleep(60)"), tmp_path / "log", timeout_s=0.3)
    assert run.ended == "timed out"


@pytest.mark.parametrize(
    ("text", "expected"), [("20GB", 20 * 10**9), ("1.5 GiB", 3 * 2**29), ("512", 512), ("8m", 8 * 10**6)]
)
def test_reads_sizes(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "1TB", "-1GB", "1.2.3GB"])
def test_refuses_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a size|could not convert"):
        parse_size(text)


def test_writes_sizes() -> None:
    assert [format_size(size) for size in (6.61e9, 412e6, 300, None)] == ["6.61 GB", "412 MB", "300 B", "-"]


def test_reads_stages_off_a_log() -> None:
    assert stage_seconds(LOG) == {"calibrate": 7.3, "annotate and export": 125.0}
    assert [stage for line in LOG.splitlines() if (stage := stage_of_line(line))] == [
        "calibrate",
        "annotate and export",
        "validate",
    ]
    assert parse_duration("1 h 02 min") == 3720


def test_kills_the_longest_steps_at_moments_that_the_seed_decides() -> None:
    stages = {"load": 0.1, "calibrate": 60.0, "plan": 1.0, "validate": 30.0}
    kills = choose_kills(stages, 2, seed=7)
    assert [kill.stage for kill in kills] == ["calibrate", "validate"]
    assert all(0 < kill.delay_s < stages[kill.stage] for kill in kills)
    assert kills == choose_kills(stages, 2, seed=7) != choose_kills(stages, 2, seed=8)
    assert "load" not in {kill.stage for kill in choose_kills(stages, 9, seed=7)}


def test_a_watch_waits_for_its_stage(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("calibrate ...\n")
    watch = watch_for(Kill("validate", 2.0), log)
    assert not watch(100.0)
    log.write_text(LOG)
    assert [watch(at) for at in (101.0, 102.9, 103.1)] == [False, False, True]


def test_kills_a_real_program_and_resumes_it(tmp_path: Path) -> None:
    code = "import sys, time; print(sys.argv[1], '...', flush=True); time.sleep(float(sys.argv[2]))"

    def run_export(number: int, resumed: bool, watch: Any) -> Run:
        stage, seconds = ("calibrate", 30) if number == 0 else ("validate", 0)
        log = tmp_path / f"{number}"
        chosen: Watch = watch(log)
        return run_measured([*python(code), stage, str(seconds)], log, watch=chosen)

    runs = kill_and_resume(run_export, (Kill("calibrate", 0.1), Kill("calibrate", 0.1)))
    assert [run.ended for _, run in runs] == ["killed on purpose", "finished"]


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """Six nodes, three of them for precision only, and a weight in a file beside it."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, (64, 64), bytes(4 * 64 * 64), raw=True)
    kinds = ("QuantizeLinear", "DequantizeLinear", "Cast", "MatMul", "Add", "Add")
    nodes = [helper.make_node(kind, [f"x{i}"], [f"x{i + 1}"]) for i, kind in enumerate(kinds)]
    onnx.save_model(
        helper.make_model(helper.make_graph(nodes, "g", [], [], [weight])),
        str(tmp_path / "model.onnx"),
        save_as_external_data=True,
        location="model.onnx.data",
    )
    return tmp_path / "model.onnx"


def test_counts_nodes_and_bytes_of_a_graph_without_its_weights(graph: Path) -> None:
    counts = count_nodes(graph)
    assert (counts.nodes, counts.computing, counts.by_type["Add"]) == (6, 3, 2)
    assert onnx_bytes(graph) == graph.stat().st_size + 4 * 64 * 64
    graph.with_name("model.onnx.data").unlink()
    assert count_nodes(graph) == counts


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_checkpoint({"a": torch.zeros(3, 5), "track_head.b": torch.zeros(100)}, VGGTConfig(), path)
    return path


def test_takes_the_figures_of_a_bundle_and_does_without_those_it_lacks(graph: Path, checkpoint: Path) -> None:
    bundle = graph.parent
    assert fp32_bytes(checkpoint) == 60
    assert not is_random(checkpoint)
    row = {"subject": "onnxruntime", "output": "depth", "metric": "sqnr_db", "against": "simulation", "value": 90.0}
    (bundle / "validation.json").write_text(json.dumps({"status": "passed", "rows": [row, row | {"against": "fp32"}]}))
    check = {"name": "TensorRT for RTX", "status": "passed", "detail": "", "figures": {"layers": 3}}
    (bundle / "lowered-tensorrt.json").write_text(json.dumps({"checks": [check]}))
    measured = {"timings": [], "checks": {"tensorrt": {"TensorRT for RTX": {"seconds": 7.0}}}}
    (bundle / "measured.json").write_text(json.dumps(measured))
    figures = bundle_figures(bundle, checkpoint)
    assert figures["validation"] == {"depth": {"sqnr_db": 90.0}}
    assert figures["rtx"] == {"status": "passed", "detail": "", "layers": 3, "seconds": 7.0}
    assert (figures["timings"], figures["reported_peak_bytes"], figures["nodes"]) == ([], None, 6)


def test_removes_what_modelopt_leaves_behind_but_not_its_result(tmp_path: Path) -> None:
    for name in ("model.onnx", "model.onnx_data", "model_named.onnx", "model_named.onnx_data", "sample.npz"):
        (tmp_path / name).touch()
    modelopt_peer.remove_intermediates(tmp_path, tmp_path / "model.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx_data", "sample.npz"]


def test_digests_are_of_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    assert list(digests(tmp_path)) == ["plan.json"]


def test_replaces_its_own_section_only() -> None:
    text = f"# Benchmarks\n\n# Full size\n{BEGIN}\nold\n{END}\n\n## Other\nkept\n"
    replaced = replace_section(text, "new")
    assert replaced == text.replace("old", "new")
    assert replace_section(replaced, "new") == replaced
    added = replace_section("# Benchmarks\n", "new")
    assert added == f"# Benchmarks\n\n# Full size\n{BEGIN}\nnew\n{END}\n"
    with pytest.raises(ValueError, match="without"):
        replace_section(BEGIN, "new")


def test_a_section_marks_random_weights_and_names_the_commands() -> None:
    machine = {"cores": 2, "memory_bytes": 24e9, "versions": {"torch": "2.13.0"}}
    figures = {
        "nodes": 10,
        "timings": [
            {"step": "calibrate", "seconds": 9.0, "forward_seconds": 7.0},
            {"step": "plan", "seconds": 1.0},
        ],
    }
    result = {"command": "vggt-edge export", "ended": "finished with 0", "wall_s": 12.0, "peak_bytes": 5e9}
    result |= {"own_peak_bytes": 4e9}
    results = {"ours-w8a8": {**result, "figures": figures, "machine": machine}}
    text = render(results, {"ours-w8a8": "ours"}, "`x`", random_weights=True)
    assert "**random**" in text
    assert "| ours | 12 s | 5.00 GB | 4.00 GB | 10 |" in text
    assert "| calibrate | 9.0 (7.0) |" in text
    assert "| sum | 10.0 (7.0) |" in text
    assert "# ours-w8a8: ours\nvggt-edge export" in text
    assert "random" not in render(results, {"ours-w8a8": "ours"}, "`x`", random_weights=False)


def test_lists_what_there_is_without_measuring(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--checkpoint", str(checkpoint), "--work", str(tmp_path / "work")]
    assert full_size.main([*arguments, "--list"]) == 0
    assert capsys.readouterr().out.count("not measured") == len(full_size.MEASUREMENTS)
    out = tmp_path / "section.md"
    assert full_size.main([*arguments, "--only", "rtx-w8a8,kill-and-resume", "--out", str(out)]) == 1
    assert "needs ours-w8a8 first" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        full_size.main([*arguments, "--only", "nonsense"])
