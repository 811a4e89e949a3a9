from __future__ import annotations

import ast
import json
import shutil
from dataclasses import fields
from pathlib import Path

import pytest

from vggt_edge.devices import profile as profiles
from vggt_edge.devices.errors import InputError, UnknownNameError
from vggt_edge.devices.profile import (
    DeviceProfile,
    Toolchain,
    ToolchainRelease,
    list_profiles,
    load_profile,
    resolve,
)

BOARD = """\
schema_version = 1
name = "my-board"
title = "A board of mine"
runtime = "tensorrt"
soc = "Orin"
schemes = ["fp16", "w8a8"]
layer_overhead_us = 10

[memory]
bytes = "8GB"
bandwidth_bytes_per_s = 1e11

[throughput_ops_per_s]
fp32 = 2e12
int8 = 3e13

[toolchain.requires]
tensorrt = ">=10.3, <11"

[tolerances]
auc30_drop_points_max = 3
"""


def board(folder: Path, text: str = BOARD) -> Path:
    path = folder / "my-board.toml"
    path.write_text(text)
    return path


def test_a_users_own_file_is_a_target(tmp_path: Path) -> None:
    profile = load_profile(str(board(tmp_path)))
    assert profile.name == "my-board"
    assert profile.memory_bytes == 8 * 10**9
    assert profile.usable_memory_bytes == 4 * 10**9
    assert profile.usable_memory_reason == profiles.DEFAULT_USABLE_REASON
    assert profile.group_sizes == ()
    assert profile.toolchain.requires == {"tensorrt": ">=10.3, <11"}
    assert profile.tolerances.auc30_drop_points_max == 3.0
    assert profile.tolerances.backend_sqnr_db_min is None
    assert profile.compute_units is None
    assert profile.on_request == profile.companions == ()


def test_what_the_artifact_is_made_for_and_what_has_to_be_asked_for(tmp_path: Path) -> None:
    """The optional keys of a device with several compute units."""
    keys = 'compute_units = "neural_engine"\non_request = ["w4a16"]\ncompanions = ["coreai"]'
    profile = load_profile(board(tmp_path, BOARD.replace('soc = "Orin"', f'soc = "A17"\n{keys}')))
    assert profile.compute_units == "neural_engine"
    assert profile.on_request == ("w4a16",)
    assert profile.companions == ("coreai",)
    assert profile.to_dict()["on_request"] == ["w4a16"]


def test_a_missing_dtype_computes_in_the_next_wider_one(tmp_path: Path) -> None:
    profile = load_profile(board(tmp_path))
    assert profile.compute_dtype("fp16") == "fp32"
    assert profile.ops_per_s("fp16") == 2e12
    assert profile.ops_per_s("int8") == 3e13


@pytest.mark.parametrize(
    ("old", "new", "key", "expected"),
    [
        ("schema_version = 1", "schema_version = 2", "schema_version", "1"),
        ('name = "my-board"', "", "name", "a name of lower-case"),
        ('name = "my-board"', 'name = "../evil"', "name", "a name of lower-case"),
        ('title = "A board of mine"', "title = 3", "title", "a line of text"),
        ('["fp16", "w8a8"]', "[]", "schemes", "at least one scheme"),
        ('["fp16", "w8a8"]', '["fp16", "fp16"]', "schemes", "distinct"),
        ('["fp16", "w8a8"]', '"fp16"', "schemes", "a list"),
        ("layer_overhead_us = 10", "layer_overhead_us = -1", "layer_overhead_us", "at least 0"),
        ("layer_overhead_us = 10", "layer_overhead_us = true", "layer_overhead_us", "a number"),
        ("layer_overhead_us = 10", "layer_overhead_us = nan", "layer_overhead_us", "a number"),
        ("layer_overhead_us = 10", "layer_overhead_us = 10\ngroup_sizes = [64, 0]", "group_sizes", "above zero"),
        ('soc = "Orin"', 'soc = "A17"\ncompute_units = "npu"', "compute_units", "neural_engine, gpu, cpu"),
        ('soc = "Orin"', 'soc = "A17"\ncompute_units = "neural-engine"', "compute_units", "did you mean"),
        ('soc = "Orin"', 'soc = "A17"\ncompute_units = ["gpu"]', "compute_units", "one of"),
        ('soc = "Orin"', 'soc = "A17"\ncompute_units = "GPU"', "compute_units", "gpu"),
        ('soc = "Orin"', 'soc = "A17"\non_request = "w4a16"', "on_request", "a list"),
        ('soc = "Orin"', 'soc = "A17"\non_request = ["w4a16", "w4a16"]', "on_request", "distinct"),
        ('soc = "Orin"', 'soc = "A17"\non_request = ["w4a16", "w8a8"]', "on_request", "by itself"),
        ('soc = "Orin"', 'soc = "A17"\ncompanions = ["Core AI"]', "companions", "names"),
        ('soc = "Orin"', 'soc = "A17"\ncompanions = ["tensorrt"]', "companions", "further backends"),
        ("layer_overhead_us = 10", "layer_overhead_us = 10\nlayer_overhed = 1", "layer_overhed", "did you mean"),
        ("layer_overhead_us = 10", 'layer_overhead_us = 10\ncompute_capability = "87"', "compute_capability", "8.7"),
        ('bytes = "8GB"', 'bytes = "8 bananas"', "memory.bytes", "1.5GiB"),
        ('bytes = "8GB"', "bytes = 8.5", "memory.bytes", "a whole number"),
        ('bytes = "8GB"', 'bytes = "8GB"\nusable_share = 1.5', "memory.usable_share", "at most 1"),
        ('bytes = "8GB"', 'bytes = "8GB"\nusable_share = 0.6', "memory.usable_reason", "why this share"),
        ("1e11", "0", "memory.bandwidth_bytes_per_s", "above 0"),
        ("1e11", "inf", "memory.bandwidth_bytes_per_s", "above 0"),
        ("fp32 = 2e12", "", "throughput_ops_per_s.fp32", "above 0"),
        ("int8 = 3e13", "int4 = 3e13", "throughput_ops_per_s.int4", "fp16"),
        ('">=10.3, <11"', '"10.3 or so"', "toolchain.requires.tensorrt", "version range"),
        ("auc30_drop_points_max = 3", "auc30_drop_points_max = 300", "tolerances.auc30_drop_points_max", "100"),
        ("auc30_drop_points_max = 3", "delta125_drop_max = 3", "tolerances.delta125_drop_max", "at most 1"),
        ("auc30_drop_points_max = 3", "auc30_drop_max = 3", "tolerances.auc30_drop_max", "auc30_drop_points_max"),
        ("[tolerances]", "[[tolerances]]", "tolerances", "[tolerances]"),
        (
            "[tolerances]",
            "[[toolchain.releases]]\nname = 'x'\nos = 'y'\n[tolerances]",
            "toolchain.releases[0].tools",
            "[t",
        ),
    ],
)
def test_a_wrong_value_names_file_key_and_what_belongs_there(
    tmp_path: Path, old: str, new: str, key: str, expected: str
) -> None:
    assert old in BOARD
    path = board(tmp_path, BOARD.replace(old, new))
    with pytest.raises(InputError) as caught:
        load_profile(path)
    assert caught.value.what.startswith(f"key {key}: ")
    assert expected in caught.value.expected
    assert caught.value.where == str(path)


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_toml_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a TOML file") as caught:
        load_profile(path)
    assert caught.value.where == str(path)


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.toml"
    path.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(InputError, match="larger than 1 MiB"):
        load_profile(path)


def test_a_missing_file_and_a_folder_are_clear_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.toml", tmp_path):
        with pytest.raises(InputError, match="cannot read the profile") as caught:
            load_profile(path)
        assert caught.value.where == str(path)


def test_an_unknown_target_lists_the_known_ones_and_guesses() -> None:
    with pytest.raises(UnknownNameError) as caught:
        resolve("jetson-orin-nano-8GB")
    assert all(profile.name in caught.value.expected for profile in list_profiles())
    assert "did you mean 'jetson-orin-nano-8gb'?" in caught.value.remedy


def test_a_hopeless_name_gets_no_guess() -> None:
    with pytest.raises(UnknownNameError) as caught:
        load_profile("toaster")
    assert "did you mean" not in caught.value.remedy


def test_jetson_orin_is_the_smallest_orin() -> None:
    smallest = resolve("jetson-orin")
    orins = [profile for profile in list_profiles() if profile.compute_capability == "8.7"]
    assert smallest.name == "jetson-orin-nano-8gb"
    assert len(orins) == 5
    for other in orins:
        assert smallest.usable_memory_bytes <= other.usable_memory_bytes
        assert smallest.bandwidth_bytes_per_s <= other.bandwidth_bytes_per_s
        assert all(smallest.ops_per_s(dtype) <= other.ops_per_s(dtype) for dtype in profiles.DTYPES)
        assert smallest.schemes == other.schemes


def test_ios_ar_is_the_smallest_phone_for_ar() -> None:
    """What fits and is fast enough on it is so on every newer phone."""
    smallest = resolve("ios-ar")
    assert smallest.name == "iphone-15-pro"
    for other in (resolve("iphone-16-pro"), resolve("iphone-17-pro")):
        assert smallest.usable_memory_bytes <= other.usable_memory_bytes
        assert smallest.bandwidth_bytes_per_s <= other.bandwidth_bytes_per_s
        assert all(smallest.ops_per_s(dtype) <= other.ops_per_s(dtype) for dtype in profiles.DTYPES)
        assert (smallest.schemes, smallest.on_request) == (other.schemes, other.on_request)
        assert set(smallest.features) <= set(other.features)


def apple() -> list[DeviceProfile]:
    return [profile for profile in list_profiles() if profile.runtime == "coreml"]


@pytest.mark.parametrize("profile", apple(), ids=lambda profile: profile.name)
def test_apple_profiles_offer_what_their_compute_unit_is_good_at(profile: DeviceProfile) -> None:
    """Palettes everywhere, blocks by themselves only on the GPU, int8 arithmetic only where it is faster."""
    assert {"fp16", "w8a16", "p6a16", "p4a16"} <= set(profile.schemes)
    assert {"w4a16", "w8a8"} <= {*profile.schemes, *profile.on_request}
    assert profile.group_sizes[0] == 32
    assert profile.companions == ("coreai",)
    assert ("w4a16" in profile.schemes) == (profile.compute_units == "gpu")
    fast_int8 = profile.compute_units == "neural_engine" and "int8_compute" in profile.features
    assert ("w8a8" in profile.schemes) == ("int8" in profile.throughput_ops_per_s) == fast_int8
    (system,) = profile.toolchain.requires
    assert all(system in release.tools for release in profile.toolchain.releases)


def phones() -> list[DeviceProfile]:
    return [profile for profile in list_profiles() if profile.runtime == "executorch"]


def test_android_is_the_slowest_phone() -> None:
    """What is fast enough on it is so on every other; only the plain Galaxy S24 has less memory."""
    slowest = resolve("android")
    assert slowest.name == "pixel-9"
    assert len(phones()) == 6
    for other in phones():
        assert slowest.bandwidth_bytes_per_s <= other.bandwidth_bytes_per_s
        assert all(slowest.ops_per_s(dtype) <= other.ops_per_s(dtype) for dtype in profiles.DTYPES)
        assert slowest.layer_overhead_us == other.layer_overhead_us
        assert slowest.schemes == other.schemes
        assert set(slowest.features) <= set(other.features)
    assert {one.name for one in phones() if one.usable_memory_bytes < slowest.usable_memory_bytes} == {"galaxy-s24"}


@pytest.mark.parametrize("profile", phones(), ids=lambda profile: profile.name)
def test_android_profiles_offer_what_xnnpack_computes(profile: DeviceProfile) -> None:
    """FP32 and int8 with run-time activations, groups that are multiples of 32 and 32 by default, no FP16."""
    assert profile.schemes == ("fp32", "w8a8d", "w4a8d")
    assert profile.on_request == profile.companions == ()
    assert profile.group_sizes == (32, 64, 128)
    assert set(profile.throughput_ops_per_s) == {"fp32", "int8"}
    assert profile.ops_per_s("int8") == 8 * profile.ops_per_s("fp32")
    assert set(profile.toolchain.requires) == {"executorch", "android_api"}
    assert all(set(release.tools) == {"executorch", "android_api"} for release in profile.toolchain.releases)


@pytest.mark.parametrize(
    ("soc", "phone"),
    [
        ("snapdragon-8-gen-3", "galaxy-s24"),
        ("snapdragon-8-elite", "galaxy-s25"),
        ("exynos-2500", "galaxy-z-flip7"),
        ("tensor-g4", "pixel-9"),
        ("tensor-g5", "pixel-10"),
        ("dimensity-9400", "dimensity-9400"),
    ],
)
def test_a_phone_is_found_by_its_chip(soc: str, phone: str) -> None:
    assert resolve(soc).name == phone


CORES = """\
[[cores]]
name = "large"
count = 2
clock_hz = 3e9
pipes = 4

"""


def cpu(features: str = "", cores: str = CORES) -> str:
    """The board with cores instead of throughputs."""
    throughput = "[throughput_ops_per_s]\nfp32 = 2e12\nint8 = 3e13\n"
    assert throughput in BOARD
    return BOARD.replace(throughput, cores).replace('soc = "Orin"', f'soc = "Orin"\nfeatures = [{features}]')


@pytest.mark.parametrize(
    ("features", "macs"), [("", 16 / 3), ('"dotprod"', 16), ('"dotprod", "i8mm"', 32), ('"i8mm", "sve"', 32)]
)
def test_cores_and_features_give_the_throughput(tmp_path: Path, features: str, macs: float) -> None:
    """2 cores x 3 GHz x 4 pipes are 24 billion instructions a second."""
    profile = load_profile(board(tmp_path, cpu(features)))
    assert profile.throughput_ops_per_s == {"fp32": 2 * 4 * 24e9, "int8": 2 * macs * 24e9}


@pytest.mark.parametrize(
    ("old", "new", "key", "expected"),
    [
        ('name = "large"\n', "", "cores[0].name", "a line of text"),
        ("count = 2", "count = 0", "cores[0].count", "from 1"),
        ("clock_hz = 3e9", "clock_hz = -3e9", "cores[0].clock_hz", "above 0"),
        ("clock_hz = 3e9", "clock_hz = 3e90", "cores[0].clock_hz", "at most"),
        ("pipes = 4", "pipes = 4.5", "cores[0].pipes", "a whole number"),
        ("pipes = 4", "pipe = 4", "cores[0].pipes", "a whole number"),
        ("pipes = 4", "pipes = 4\nsimd = true", "cores[0].simd", "pipes"),
        ("[[cores]]", "[cores]", "cores", "[[cores]]"),
        ("[[cores]]", "[throughput_ops_per_s]\nfp32 = 1e9\n[[cores]]", "cores", "one of the two"),
        (CORES, "", "throughput_ops_per_s", "a table"),
    ],
)
def test_a_wrong_core_names_its_place(tmp_path: Path, old: str, new: str, key: str, expected: str) -> None:
    assert old in cpu()
    with pytest.raises(InputError) as caught:
        load_profile(board(tmp_path, cpu().replace(old, new)))
    assert caught.value.what.startswith(f"key {key}: ")
    assert expected in caught.value.expected


def test_an_empty_list_of_cores_is_an_error(tmp_path: Path) -> None:
    text = cpu(cores="").replace("layer_overhead_us", "cores = []\nlayer_overhead_us")
    with pytest.raises(InputError, match="key cores: is empty"):
        load_profile(board(tmp_path, text))


def test_every_promised_board_has_a_profile() -> None:
    assert [profile.name for profile in list_profiles()] == sorted(
        path.stem for path in profiles.PROFILE_FOLDER.glob("*.toml")
    )
    assert {profile.name for profile in list_profiles()} >= {
        "dimensity-9400",
        "galaxy-s24",
        "galaxy-s25",
        "galaxy-z-flip7",
        "host-cpu",
        "ipad-m4",
        "iphone-14-pro",
        "iphone-15-pro",
        "iphone-16-pro",
        "iphone-17-pro",
        "jetson-agx-orin-32gb",
        "jetson-agx-orin-64gb",
        "jetson-orin-nano-8gb",
        "jetson-orin-nx-16gb",
        "jetson-orin-nx-8gb",
        "jetson-thor-t4000",
        "jetson-thor-t5000",
        "pixel-10",
        "pixel-9",
        "rtx-4060-laptop",
        "rtx-5060-laptop",
        "vision-pro",
        "vision-pro-m5",
    }


@pytest.mark.parametrize("profile", list_profiles(), ids=lambda profile: profile.name)
def test_built_in_profiles_keep_their_promises(profile: DeviceProfile) -> None:
    """Wider dtypes are not faster, the graph's opset has 4-bit DequantizeLinear, and the record is plain JSON."""
    assert all(profile.ops_per_s(dtype) >= profile.ops_per_s(wider) for dtype, wider in profiles.WIDER.items())
    assert profile.usable_memory_bytes < profile.memory_bytes
    assert profile.runtime not in profile.companions
    assert not set(profile.on_request) & set(profile.schemes)
    if profile.runtime == "tensorrt":
        assert profile.toolchain.opset == 21
        assert profile.group_sizes == (64, 128)
        assert profile.tolerances.auc30_drop_points_max == 3.0
        assert all({"tensorrt", "tensorrt_rtx"} & set(release.tools) for release in profile.toolchain.releases)
    record = json.loads(json.dumps(profile.to_dict(), sort_keys=True))
    assert record == profile.to_dict()
    assert record["schemes"] == list(profile.schemes)


def test_a_name_used_twice_is_an_error(tmp_path: Path) -> None:
    nano = profiles.PROFILE_FOLDER / "jetson-orin-nano-8gb.toml"
    shutil.copy(nano, tmp_path)
    text = nano.read_text().replace('"jetson-orin-nano-8gb"', '"other"')
    (tmp_path / "other.toml").write_text(text)
    with pytest.raises(InputError, match="'jetson-orin' is already a name or alias of jetson-orin-nano-8gb") as caught:
        profiles._catalog(tmp_path)
    assert caught.value.where == str(tmp_path / "other.toml")


def test_a_file_is_named_after_its_profile(tmp_path: Path) -> None:
    shutil.copy(profiles.PROFILE_FOLDER / "host-cpu.toml", tmp_path / "laptop.toml")
    with pytest.raises(InputError, match="host-cpu") as caught:
        profiles._catalog(tmp_path)
    assert "'laptop'" in caught.value.expected


def test_every_field_is_read_by_code(repository: Path) -> None:
    """A field that nobody reads is a promise that nobody keeps."""
    layers = ("devices", "calibration", "runtimes", "exporter")
    sources = [path for layer in layers for path in (repository / layer).rglob("*.py")]
    nodes = (node for path in sources for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    read = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    kinds = (DeviceProfile, Toolchain, ToolchainRelease)  # tolerances: test_gates.py
    declared = {field.name for kind in kinds for field in fields(kind)}
    assert declared - {"schema_version"} <= read  # the version is read in the table, before there is a profile


def test_figures_hold_for_the_chip_and_its_highest_power_mode(tmp_path: Path) -> None:
    plain, modes = BOARD, BOARD.replace('soc = "Orin"', 'soc = "Orin"\npower_modes = ["15W", "MAXN"]')
    assert load_profile(board(tmp_path, plain)).figures_hold_for == "Orin"
    assert load_profile(board(tmp_path, modes)).figures_hold_for == "Orin in power mode MAXN"
