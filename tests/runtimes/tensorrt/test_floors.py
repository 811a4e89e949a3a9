"""A scheme is refused where every TensorRT of a device is too old for it, and a bundle asks for the one it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from vggt_edge.devices.errors import LoweringError, UsageError
from vggt_edge.devices.profile import DeviceProfile, ToolchainRelease, load_profile
from vggt_edge.exporter.job import check_runnable
from vggt_edge.exporter.request import ExportRequest
from vggt_edge.runtimes.tensorrt.backend import TensorRT
from vggt_edge.runtimes.tensorrt.floors import required, too_old

BACKEND = TensorRT()
NARROW = ("fp8", "nvfp4", "nvfp4a16")


def thor(*versions: str, requires: str = ">=10.3") -> DeviceProfile:
    """A Jetson Thor whose JetPacks hold these versions of TensorRT."""
    profile = load_profile("jetson-thor")
    releases = tuple(ToolchainRelease(f"JetPack {index}", "", {"tensorrt": one}) for index, one in enumerate(versions))
    return replace(profile, toolchain=replace(profile.toolchain, requires={"tensorrt": requires}, releases=releases))


@pytest.mark.parametrize(
    ("versions", "refused"),
    [
        (("10.3",), NARROW),
        (("10.7.1",), ("nvfp4", "nvfp4a16")),
        (("10.13", "10.16"), ("nvfp4",)),
        (("10.13", "11.4.1"), ()),
        (("11.0",), ()),
    ],
)
def test_the_newest_release_decides(versions: tuple[str, ...], refused: tuple[str, ...]) -> None:
    profile = thor(*versions)
    assert tuple(name for name in NARROW if too_old(name, profile)) == refused
    assert not set(refused) & set(BACKEND.schemes(profile))
    assert {"fp16", "w8a8"} <= set(BACKEND.schemes(profile))


@pytest.mark.parametrize(
    ("requires", "refused"),
    [(">=10.3,<11", ("nvfp4",)), ("<=10.3", NARROW), ("==10.16", ("nvfp4",)), (">=10.3", ()), (">=10.3,<12", ())],
)
def test_without_releases_the_range_decides(requires: str, refused: tuple[str, ...]) -> None:
    assert tuple(name for name in NARROW if too_old(name, thor(requires=requires))) == refused


def test_an_export_is_refused_before_any_work() -> None:
    """The message names both versions, the JetPack, and what can be asked for instead."""
    with pytest.raises(UsageError) as caught:
        check_runnable(ExportRequest(precision="nvfp4"), thor("10.13", "10.16"), BACKEND)
    assert "it takes TensorRT 11.0 or later, and the newest of this device is 10.16, in JetPack 1" in str(caught.value)
    assert "fp8" in str(caught.value.expected)
    check_runnable(ExportRequest(precision="fp8"), thor("10.13", "10.16"), BACKEND)


def test_an_older_opset_is_refused_before_any_work() -> None:
    profile = thor("11.4")
    old = replace(profile, toolchain=replace(profile.toolchain, opset=19))
    with pytest.raises(LoweringError, match="of opset 21, and jetson-thor-t4000 reads up to 19"):
        check_runnable(ExportRequest(precision="fp8"), old, BACKEND)


def test_tensorrt_for_rtx_has_floors_of_its_own() -> None:
    assert not too_old("nvfp4", load_profile("rtx-5060-laptop"))


@pytest.mark.parametrize(
    ("schemes", "requires", "wanted"),
    [
        (("fp16", "w8a8"), {"tensorrt": ">=10.3"}, ">=10.3"),
        (("fp16", "nvfp4", "fp8"), {"tensorrt": ">=10.13"}, ">=11.0"),
        (("fp8",), {"tensorrt": ">=10.13"}, ">=10.13"),
        (("nvfp4",), {"tensorrt": ">=10.13,<12"}, ">=11.0,<12"),
        (("nvfp4",), {"tensorrt_rtx": ">=1.4"}, None),
    ],
)
def test_a_bundle_asks_for_what_its_schemes_need(
    schemes: tuple[str, ...], requires: Mapping[str, str], wanted: str | None
) -> None:
    found = required(schemes, requires)
    assert found.get("tensorrt") == wanted
    assert set(found) == set(requires)
