"""What docs/ says about devices is true."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from vggt_edge.devices.profile import Tolerances, list_profiles, load_profile, resolve

DOCS = Path(__file__).parents[2] / "docs"
RUNTIMES = {"TensorRT": "tensorrt", "ONNX Runtime": "onnxruntime"}


def rows(first_column: str) -> list[list[str]]:
    """The cells of every table row whose first cell fits the pattern."""
    lines = (DOCS / "devices.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [row for row in cells if re.fullmatch(first_column, row[0])]


def test_the_example_in_the_how_to_is_a_valid_profile(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", (DOCS / "how-to" / "add-a-device.md").read_text(), re.DOTALL)
    path = tmp_path / "my-board.toml"
    path.write_text(example)
    assert load_profile(path).schemes == ("fp16", "w8a8", "w4a16")


def test_the_table_of_targets_is_that_of_the_profiles() -> None:
    listed = {}
    for names, runtime, memory, schemes in rows(r"`(?:jetson|host).*`"):
        name, *aliases = re.findall(r"`([^`]+)`", names)
        size, share = (int(number) for number in re.findall(r"\d+", memory))
        listed[name] = (tuple(aliases), RUNTIMES[runtime], size, share, tuple(schemes.split(", ")))
    assert listed == {
        one.name: (
            one.aliases,
            one.runtime,
            one.memory_bytes // 2**30,
            round(100 * one.usable_memory_bytes / one.memory_bytes),
            one.schemes,
        )
        for one in list_profiles()
    }


def test_the_table_of_tolerances_is_that_of_the_profiles() -> None:
    listed = {row[0].strip("`"): (float(row[2]), float(row[3])) for row in rows(r"`\w+_(?:max|min)`")}
    jetson, host = resolve("jetson-orin").tolerances, resolve("host").tolerances
    assert listed == {
        field.name: (getattr(jetson, field.name), getattr(host, field.name)) for field in fields(Tolerances)
    }
