"""What docs/ says about devices is true."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from vggt_edge.devices.profile import Tolerances, list_profiles, load_profile, resolve

DOCS = Path(__file__).parents[2] / "docs"
RUNTIMES = {
    "TensorRT": "tensorrt",
    "Core ML": "coreml",
    "ExecuTorch": "executorch",
    "Vulkan": "vulkan",
    "ONNX Runtime": "onnxruntime",
}
PHONES = r"`(?:pixel|galaxy|dimensity)[a-z0-9-]*`"
UNITS = {"Neural Engine": "neural_engine", "GPU": "gpu"}


def rows(first_column: str) -> list[list[str]]:
    """The cells of every table row whose first cell fits the pattern."""
    lines = (DOCS / "devices.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [row for row in cells if re.fullmatch(first_column, row[0])]


def how_to_examples() -> list[str]:
    return re.findall(r"```toml\n(.*?)```", (DOCS / "how-to" / "add-a-device.md").read_text(), re.DOTALL)


def test_the_example_in_the_how_to_is_a_valid_profile(tmp_path: Path) -> None:
    path = tmp_path / "my-board.toml"
    path.write_text(how_to_examples()[0])
    assert load_profile(path).schemes == ("fp16", "w8a8", "w4a16")


def test_the_example_of_cores_goes_where_the_throughputs_were(tmp_path: Path) -> None:
    """With it the board computes FP32 at 1 core x 3.1 GHz x 4 pipes x 4 values x 2."""
    example, cores = how_to_examples()
    path = tmp_path / "my-board.toml"
    path.write_text(re.sub(r"\[throughput_ops_per_s\].*?\n\n", cores + "\n", example, flags=re.DOTALL))
    assert load_profile(path).throughput_ops_per_s["fp32"] == 99.2e9


def test_the_table_of_targets_is_that_of_the_profiles() -> None:
    listed = {}
    targets = [
        row for row in rows(r"`(?:jetson|rtx|iphone|ipad|vision|pixel|galaxy|dimensity|host).*`") if len(row) == 5
    ]
    for names, runtime, memory, schemes, on_request in targets:
        name, *aliases = re.findall(r"`([^`]+)`", names)
        runtime, _, unit = runtime.partition(", ")
        size, share = (int(number) for number in re.findall(r"\d+", memory))
        offered = tuple(tuple(cell.split(", ")) if cell != "-" else () for cell in (schemes, on_request))
        listed[name] = (tuple(aliases), RUNTIMES[runtime], UNITS.get(unit), size, share, *offered)
    assert listed == {
        one.name: (
            one.aliases,
            one.runtime,
            one.compute_units,
            one.memory_bytes // 2**30,
            round(100 * one.usable_memory_bytes / one.memory_bytes),
            one.schemes,
            one.on_request,
        )
        for one in list_profiles()
    }


def test_the_figures_of_the_apple_devices_are_those_of_the_profiles() -> None:
    """Bandwidth and peaks, in the units of the table."""
    listed = {
        row[0].strip("`"): tuple(row[1:6]) for row in rows(r"`(?:iphone|ipad|vision)[a-z0-9-]*`") if len(row) == 6
    }
    expected = {}
    for one in list_profiles():
        if one.runtime == "coreml":
            rates = [one.throughput_ops_per_s.get(dtype) for dtype in ("fp16", "int8")]
            cells = ["-" if rate is None else f"{rate / 1e12:g}" for rate in rates]
            expected[one.name] = (
                one.soc,
                f"{one.bandwidth_bytes_per_s / 1e9:g}",
                *cells,
                ", ".join(one.features) or "-",
            )
    assert listed == expected


def test_the_figures_of_the_phones_are_those_of_the_profiles() -> None:
    """Bandwidth, the rates that follow from the cores, and the instructions."""
    listed = {row[0].strip("`"): tuple(row[1:6]) for row in rows(PHONES) if len(row) == 6}
    assert listed == {
        one.name: (
            one.soc,
            f"{one.bandwidth_bytes_per_s / 1e9:g}",
            *(f"{one.throughput_ops_per_s[dtype] / 1e12:.3f}" for dtype in ("fp32", "int8")),
            ", ".join(one.features),
        )
        for one in list_profiles()
        if one.runtime == "executorch"
    }


def test_the_table_of_tolerances_is_that_of_the_profiles() -> None:
    listed = {row[0].strip("`"): tuple(map(float, row[2:4])) for row in rows(r"`\w+_(?:max|min)`")}
    jetson, host = resolve("jetson-orin").tolerances, resolve("host").tolerances
    assert listed == {
        field.name: (getattr(jetson, field.name), getattr(host, field.name)) for field in fields(Tolerances)
    }
    assert {one.tolerances for one in list_profiles() if one.runtime != "onnxruntime"} == {jetson}
