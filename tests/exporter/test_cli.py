"""Arguments in, one exit code and one clean message out, for whatever happens inside."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vggt_edge.devices import errors
from vggt_edge.exporter.cli import app, explain
from vggt_edge.exporter.commands.output import print_result, stdout_to_stderr, to_document

Run = Callable[..., Any]
VERBS = (
    "export", "calibrate", "plan", "validate", "inspect", "bench", "targets", "doctor", "verify", "sign", "licenses",
    "diff", "schemas", "deploy",
)  # fmt: skip


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make the ``targets`` command fail with a given exception, deep inside."""

    def arrange(error: BaseException) -> None:
        def fail() -> None:
            raise error

        monkeypatch.setattr("vggt_edge.devices.profile.list_profiles", fail)

    return arrange


def test_help_names_every_verb_and_exit_code(vggt_edge: Run) -> None:
    finished = vggt_edge("--help")
    assert finished.code == 0
    assert all(verb in finished.out for verb in VERBS)
    assert "Exit codes" in finished.out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_json_and_a_log_level(vggt_edge: Run, verb: str) -> None:
    finished = vggt_edge(verb, "--help")
    assert finished.code == 0
    assert "--json" in finished.out
    assert "--log-level" in finished.out


def test_nothing_at_all_shows_help_and_is_a_usage_error(vggt_edge: Run) -> None:
    finished = vggt_edge()
    assert finished.code == 2
    assert "Usage" in finished.out


def test_version(vggt_edge: Run) -> None:
    finished = vggt_edge("--version")
    assert (finished.code, finished.out.split()[0]) == (0, "vggt-edge")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["exprot"], "exprot"),
        (["export", "--no-such-flag"], "--no-such-flag"),
        (["export", "--frames", "two"], "--frames"),
        (["export", "--log-level", "loud"], "loud"),
        (["verify"], "BUNDLE"),
        (["export", "--target", "toaster"], "jetson-orin"),
        (["export", "--scenes", "no/such/folder"], "no/such/folder"),
        (["export", "--config", "no-such.toml"], "no-such.toml"),
        (["export", "--max-memory", "12"], "--max-memory"),
        (["export", "--set", "colour=red"], "max_memory"),
        (["export", "--exclude", "("], "--exclude"),
        (["export", "--sensitivity", "guess"], "--sensitivity"),
        (["export", "--calibration-scenes", "0"], "--calibration-scenes"),
        (["inspect", "no-such.json"], "no-such.json"),
    ],
)
def test_usage_errors_exit_2_and_say_what(vggt_edge: Run, arguments: list[str], part: str) -> None:
    finished = vggt_edge(*arguments)
    assert finished.code == 2
    assert part in finished.err
    assert "Traceback" not in finished.err
    assert finished.out == ""


@pytest.mark.parametrize(
    ("target", "precision", "known"),
    [
        ("jetson-orin", "fp32", "fp16, w8a8, w4a16, w8a8-mha, mixed"),
        ("jetson-orin", "w8a8d", "fp16, w8a8, w4a16, w8a8-mha, mixed"),
        ("android", "fp16", "fp32, w8a8d, w4a8d, mixed"),
        ("android", "w8a8", "fp32, w8a8d, w4a8d, mixed"),
    ],
)
def test_a_scheme_of_other_targets_is_refused_with_those_of_this_one(
    vggt_edge: Run, tmp_path: Path, target: str, precision: str, known: str
) -> None:
    finished = vggt_edge("export", "--target", target, "--precision", precision, "-o", tmp_path / "out")
    assert finished.code == 2
    assert f"has no form of {precision}" in finished.err
    assert f"one of: {known}" in finished.err


def test_with_json_an_error_is_a_document_too(vggt_edge: Run) -> None:
    finished = vggt_edge("export", "--target", "toaster", "--json")
    assert finished.document["exit_code"] == finished.code == 2
    assert finished.document["error"]["kind"] == "UnknownNameError"
    assert "jetson-orin" in finished.document["error"]["expected"]


def test_the_parser_s_errors_are_documents_as_well(vggt_edge: Run) -> None:
    finished = vggt_edge("export", "--no-such-flag", "--json")
    assert finished.document["error"]["kind"] == "UsageError"
    assert finished.code == 2


def test_an_existing_output_is_never_touched(vggt_edge: Run, tmp_path: Path) -> None:
    precious = tmp_path / "out" / "precious"
    precious.parent.mkdir()
    precious.write_text("x")
    finished = vggt_edge("export", "-o", tmp_path / "out")
    assert finished.code == 2
    assert "exists already" in finished.err
    assert precious.read_text() == "x"


def test_dry_run_prints_a_configuration_and_writes_nothing(
    vggt_edge: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    finished = vggt_edge("export", "--frames", "2", "--set", "frames=3", "--set", "seed=9", "--dry-run", "-o", "new")
    assert finished.code == 0
    assert "frames = 2\n" in finished.out
    assert "seed = 9\n" in finished.out
    assert list(tmp_path.iterdir()) == []
    assert tomllib.loads(finished.out)["frames"] == 2
    lines = ("# Estimate", "# calibrate: ", "# memory at most: ", "# disk at most: ")
    assert all(line in finished.out for line in lines)


def test_what_a_dry_run_prints_is_a_configuration_file(vggt_edge: Run, tmp_path: Path) -> None:
    settings = ("--calibration-scenes", "1", "--validation-scenes", "2", "--sensitivity", "probe", "--frames", "1")
    first = vggt_edge("export", *settings, "--resolution", "28", "--dry-run", "-o", tmp_path / "new")
    (tmp_path / "again.toml").write_text(first.out)
    again = vggt_edge("export", "--config", tmp_path / "again.toml", "--dry-run", "--json", "-o", tmp_path / "new")
    assert again.document["request"] == tomllib.loads(first.out)
    assert again.document["request"]["validation_scenes"] == 2
    assert again.document["request"]["sensitivity"] == "probe"


def test_dry_run_as_json(vggt_edge: Run, tmp_path: Path, fits: Callable[[str, object], None]) -> None:
    finished = vggt_edge("plan", "--max-memory", "12MB", "--dry-run", "--json", "-o", tmp_path / "new")
    fits("dry-run-answer", finished.document)
    assert finished.document["request"]["max_memory"] == 12_000_000
    assert finished.document["would_be_refused"] is None
    assert finished.document["exit_code"] == finished.code == 0
    needed = finished.document["estimate"]
    assert needed["seconds"] >= needed["forward_seconds"] > 0
    assert needed["memory_bytes"] == max(step["memory_bytes"] for step in needed["steps"])


def test_a_result_splits_the_time_and_warns_of_random_weights(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass(frozen=True)
    class Result:
        output: Path
        forward_seconds: float
        other_seconds: float
        random_weights: str

    print_result(Result(Path("out"), 243.2, 7.25, "seed 0"), as_json=False)
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("WARNING: random weights (seed 0)")
    assert lines == ["output        out", "forward time  4 min 03 s", "other time    7.2 s"]
    print_result(Result(Path("out"), 1, 2, ""), as_json=False)
    assert "random" not in capsys.readouterr().out
    print_result(Result(Path("out"), 1, 2, "seed 0"), as_json=True)
    assert json.loads(capsys.readouterr().out)["result"]["random_weights"] == "seed 0"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ToolchainError("no compiler"), 3),
        (errors.AccuracyGateError("too far off"), 4),
        (errors.BudgetError("too small"), 5),
        (errors.LoweringError("refused"), 6),
        (errors.ResourceError("too little"), 7),
        (MemoryError(), 7),
        (RuntimeError("Non-zero status code returned while running Expand node: std::bad_alloc"), 7),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), 7),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "big.bin"), 7),
        (RuntimeError("SafetensorError: I/O error: No space left on device (os error 28)"), 7),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "out"), 7),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "out"), 7),
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "gone.pt"), 2),
        (ZeroDivisionError("a defect"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_every_failure_has_its_exit_code(
    vggt_edge: Run, raising: Callable[[BaseException], None], error: BaseException, code: int
) -> None:
    raising(error)
    finished = vggt_edge("targets", "--json")
    assert finished.code == finished.document["exit_code"] == code
    assert finished.err.startswith("error: ")
    assert "Traceback" not in finished.err


def test_an_interrupt_points_at_resume(vggt_edge: Run, raising: Callable[[BaseException], None]) -> None:
    raising(KeyboardInterrupt())
    assert "--resume" in vggt_edge("targets").err


def test_a_full_disk_names_the_file(vggt_edge: Run, raising: Callable[[BaseException], None]) -> None:
    raising(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "big.bin"))
    assert "big.bin" in vggt_edge("targets").err


@pytest.mark.parametrize("flag", [["--log-level", "debug"], ["--log-level=debug"]])
def test_debug_shows_the_traceback(vggt_edge: Run, raising: Callable[[BaseException], None], flag: list[str]) -> None:
    raising(ZeroDivisionError("a defect"))
    assert "Traceback" in vggt_edge("targets", *flag).err


def test_exit_codes_agree_with_the_documentation(repository: Path) -> None:
    """Every error class stands in docs/exit-codes.md with its code, directly or through its base."""
    text = (repository / "docs/exit-codes.md").read_text()
    classes = [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, Exception)]
    for item in classes:
        if item is not errors.VggtEdgeError:
            row = next(line for line in text.splitlines() if f"`{item.__name__}`" in line)
            assert row.startswith(f"| {item.exit_code} |")


def test_every_verb_is_registered_once() -> None:
    names = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    groups = [group.name for group in app.registered_groups]
    assert sorted([*names, *groups]) == sorted(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_does_not_ask_a_switch_for_a_value(vggt_edge: Run, verb: str) -> None:
    """The parser's own ``--help`` is the exception."""
    said = [line for line in vggt_edge(verb, "--help").out.splitlines() if "<bool>" in line]
    assert all("--help" in line for line in said)


def test_targets_lists_every_profile(vggt_edge: Run, repository: Path) -> None:
    profiles = {path.stem for path in (repository / "devices/profiles").glob("*.toml")}
    assert {entry["name"] for entry in vggt_edge("targets", "--json").document["targets"]} == profiles
    assert all(name in vggt_edge("targets").out for name in profiles)


@pytest.mark.parametrize("output", ["file/inside", "file"])
def test_an_output_that_cannot_be_made_is_refused_early(vggt_edge: Run, tmp_path: Path, output: str) -> None:
    (tmp_path / "file").write_text("x")
    finished = vggt_edge("export", "-o", tmp_path / output)
    assert finished.code == 2
    assert "file" in finished.err


def test_a_read_only_place_is_refused_early(vggt_edge: Run) -> None:
    """/proc accepts no new folder, not even from root."""
    finished = vggt_edge("export", "-o", "/proc/new")
    assert finished.code == 7
    assert "/proc" in finished.err


def test_libraries_cannot_write_into_the_document(capfd: pytest.CaptureFixture[str]) -> None:
    """Neither through print nor, as C code does, through the descriptor."""
    with stdout_to_stderr():
        print("from python")
        os.write(1, b"from c\n")
    print("the document")
    captured = capfd.readouterr()
    assert captured.out == "the document\n"
    assert "from python" in captured.err
    assert "from c" in captured.err


def test_documents_are_plain_json() -> None:
    value = {"path": Path("a"), "nan": float("nan"), "array": np.float32(0.5), "set": {"b", "a"}, "none": None}
    assert to_document(value) == {"path": "a", "nan": None, "array": 0.5, "set": ["a", "b"], "none": None}


def test_an_unknown_type_is_not_guessed() -> None:
    with pytest.raises(TypeError, match="object has no form"):
        to_document(object())


def test_known_errors_are_told_as_they_are() -> None:
    error = errors.BudgetError("too small")
    assert explain(error) is error


def test_the_installed_command_exits_with_the_code(tmp_path: Path) -> None:
    """Through the real entry point, and away from the repository."""
    command = Path(sys.executable).parent / "vggt-edge"
    finished = subprocess.run(
        [command, "export", "--target", "toaster"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert finished.returncode == 2
    assert finished.stderr.startswith("error: unknown target 'toaster'")


def test_main_reads_the_process_arguments() -> None:
    """Run the command in a process of its own, whose streams and signals it changes for good."""
    code = "from vggt_edge.exporter.cli import main; assert main() == 0"
    finished = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "vggt-edge" in finished.stdout
