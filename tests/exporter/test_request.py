"""Precedence, names, parsing, and the way from a request to TOML and back."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vggt_edge.calibration.scenes.framing import MODES, PIXEL_CENTERS
from vggt_edge.calibration.scheme import COMPARED_ONLY, SCHEMES
from vggt_edge.devices.errors import InputError, UnknownNameError, UsageError
from vggt_edge.exporter.models.config import OUTPUTS
from vggt_edge.exporter.request import (
    KEYS,
    PRECISIONS,
    SENSITIVITY_METHODS,
    ExportRequest,
    resolve_request,
    settings_of_profile,
    to_settings,
    to_toml,
)

# Text as a command line can carry it: no NUL, no lone surrogates.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)

REQUESTS = st.builds(
    ExportRequest,
    target=TEXT,
    model=TEXT,
    scenes=st.none() | TEXT.map(lambda text: Path("scenes") / text.replace("/", "_")),
    precision=st.sampled_from(PRECISIONS),
    max_memory_bytes=st.none() | st.integers(1, 2**60),
    max_latency_ms=st.none() | st.floats(1e-6, 1e9),
    max_accuracy_drop=st.none() | st.floats(0, 1),
    frames=st.none() | st.integers(1, 1000),
    resolution=st.none()
    | st.integers(1, 40).map(lambda side: 14 * side)
    | st.tuples(st.integers(1, 40), st.integers(1, 40)).map(lambda sides: (14 * sides[0], 14 * sides[1])),
    outputs=st.sets(st.sampled_from(OUTPUTS), min_size=1).map(lambda some: tuple(n for n in OUTPUTS if n in some)),
    calibration_scenes=st.none() | st.integers(1, 10_000),
    validation_scenes=st.none() | st.integers(1, 10_000),
    preprocess=st.sampled_from(MODES),
    pixel_centers=st.sampled_from(PIXEL_CENTERS),
    exclude=st.lists(st.sampled_from([r"^camera_head\.", 'a"b', "\t", r"fc2$", "ü|é"])).map(tuple),
    group_size=st.sampled_from([32, 64, 128]),
    sensitivity=st.sampled_from(SENSITIVITY_METHODS),
    seed=st.integers(0, 2**63),
)


def from_file(tmp_path: Path, text: str, **flags: object) -> ExportRequest:
    path = tmp_path / "export.toml"
    path.write_text(text, encoding="utf-8")
    return resolve_request(flags, (), path)


def test_nothing_given_is_the_default() -> None:
    assert resolve_request({}) == ExportRequest()


@given(request=REQUESTS)
def test_written_out_and_read_again_is_the_same(
    request: ExportRequest, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What a bundle holds as resolved.toml repeats its run, whatever characters it has in it."""
    path = tmp_path_factory.mktemp("resolved") / "resolved.toml"
    path.write_text(to_toml(request), encoding="utf-8")
    assert resolve_request({}, (), path) == request


def test_a_path_that_is_not_utf8_is_written_out_and_read_again(tmp_path: Path) -> None:
    """As old ZIP files leave names; the file itself is UTF-8."""
    request = resolve_request({"scenes": os.fsdecode(b"photos/caf\xe9"), "validate_on": "b"})
    path = tmp_path / "resolved.toml"
    path.write_text(to_toml(request), encoding="utf-8")
    assert resolve_request({}, (), path) == request


@given(request=REQUESTS)
def test_toml_and_json_say_the_same(request: ExportRequest) -> None:
    assert tomllib.loads(to_toml(request)) == to_settings(request)


@given(
    flag=st.none() | st.integers(1, 9),
    set_=st.none() | st.integers(1, 9),
    file=st.none() | st.integers(1, 9),
    profile=st.none() | st.integers(1, 9),
)
def test_the_strongest_source_wins(
    flag: int | None,
    set_: int | None,
    file: int | None,
    profile: int | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("config") / "export.toml"
    path.write_text("" if file is None else f"frames = {file}\n")

    def defaults(target: str) -> Mapping[str, object]:
        return {} if profile is None else {"frames": profile}

    resolved = resolve_request({"frames": flag}, () if set_ is None else [f"frames={set_}"], path, defaults)
    given_values = [value for value in (flag, set_, file, profile) if value is not None]
    assert resolved.frames == (given_values[0] if given_values else None)


def test_profile_defaults_are_those_of_the_resolved_target(tmp_path: Path) -> None:
    asked = []

    def defaults(target: str) -> Mapping[str, object]:
        asked.append(target)
        return {}

    path = tmp_path / "export.toml"
    path.write_text('target = "from-file"')
    resolve_request({}, ["target=from-set"], path, defaults)
    assert asked == ["from-set"]


@pytest.mark.parametrize(("target", "size"), [("jetson-orin", 64), ("host", 64), ("ios-ar", 32), ("android", 32)])
def test_group_size_comes_from_the_profile(target: str, size: int) -> None:
    """Its first one, unless the user names another."""
    assert resolve_request({"target": target}, (), None, settings_of_profile).group_size == size
    assert resolve_request({"target": target}, ["group_size=128"], None, settings_of_profile).group_size == 128


def test_every_scheme_can_be_asked_for() -> None:
    """Which of them a device runs is its profile's business."""
    assert {*PRECISIONS} == {*SCHEMES, "mixed"} - COMPARED_ONLY


def test_units_and_shares() -> None:
    request = resolve_request({"max_memory": "12MB", "max_latency": "1.5s", "max_accuracy_drop": "2%"})
    assert request.max_memory_bytes == 12_000_000
    assert request.max_latency_ms == 1500
    assert request.max_accuracy_drop == pytest.approx(0.02)


def test_numbers_in_a_file_are_bytes_and_milliseconds(tmp_path: Path) -> None:
    request = from_file(tmp_path, "max_memory = 5000\nmax_latency = 7.5\n")
    assert (request.max_memory_bytes, request.max_latency_ms) == (5000, 7.5)


def test_numbers_of_scenes_and_the_method_of_sensitivity() -> None:
    request = resolve_request({"calibration_scenes": 3, "sensitivity": "probe"}, ["validation-scenes=2"])
    assert (request.calibration_scenes, request.validation_scenes, request.sensitivity) == (3, 2, "probe")
    assert ExportRequest().sensitivity == "auto"
    assert ExportRequest().calibration_scenes is ExportRequest().validation_scenes is None


def test_outputs_are_names_that_only_the_model_knows() -> None:
    assert resolve_request({"outputs": "points, camera"}).outputs == ("points", "camera")
    assert resolve_request({}).outputs is None


def test_dashes_and_underscores_are_the_same_key() -> None:
    assert resolve_request({}, ["max-memory=1kB"]).max_memory_bytes == 1000


@pytest.mark.parametrize(("text", "wanted"), [("112", 112), ("84x112", (84, 112)), ("84X112", (84, 112))])
def test_resolutions(text: str, wanted: object) -> None:
    assert resolve_request({"resolution": text}).resolution == wanted


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("frames=0", "greater than 0"),
        ("frames=two", "not a whole number"),
        ("seed=-1", "greater than or equal to 0"),
        ("resolution=14x14x14", "not a resolution"),
        ("max_memory=lots", "cannot read 'lots'"),
        ("max_memory=0", "cannot read '0'"),
        ("max_latency=35", "cannot read '35'"),
        ("max_accuracy_drop=nan", "finite"),
        ("max_accuracy_drop=little", "not a share"),
        ("max_accuracy_drop=-1%", "greater than or equal to 0"),
        ("exclude=(", "not a regular expression"),
        ("group_size=48", "32, 64 or 128"),
        ("precision=int8", "one of: fp16, fp32, fp8, fp8-mha, mixed"),
        ("preprocess=stretch", "one of: crop, fit, pad"),
        ("pixel_centers=0.25", "one of: half, integer"),
        ("sensitivity=guess", "one of: auto, exact, probe"),
        ("calibration_scenes=0", "greater than 0"),
        ("validation_scenes=-3", "greater than 0"),
        ("validation_scenes=20000", "less than or equal to 10000"),
        ("calibration_scenes=many", "not a whole number"),
        ("outputs=,", "no outputs"),
        ("target=", "at least 1 character"),
        ("frames", "has no value"),
        ("output=x", "only be given as --output"),
        ("execute=arm", "only be given as --execute"),
        ("external_weights=perhaps", "neither true nor false"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(setting: str, part: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_request({}, [setting])
    assert part in str(caught.value)
    assert setting in str(caught.value)


def test_emulations_are_named_once_and_by_their_names() -> None:
    """They steer a run, so that they are not among the settings of a bundle."""
    request = resolve_request({"execute": "arm, arm"})
    assert request.execute == ("arm",)
    assert "execute" not in to_toml(request)
    with pytest.raises(UnknownNameError, match="toaster"):
        resolve_request({"execute": "toaster"})


def test_an_unknown_key_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError) as caught:
        from_file(tmp_path, "max_mem = 3")
    assert "'max_mem'" in caught.value.what
    assert all(key in caught.value.expected for key in KEYS)
    assert "export.toml" in caught.value.where


@pytest.mark.parametrize("content", [b"frames = = 2", b"\xff\xfe", b"frames = [1"])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot read the configuration") as caught:
        resolve_request({}, (), path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("text", ["frames = true", "frames = 2.5", "outputs = 3", "exclude = [3]", "target = 1"])
def test_a_file_s_types_are_checked(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_file(tmp_path, text)
    assert "export.toml" in caught.value.where


def test_a_request_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        ExportRequest().seed = 3  # type: ignore[misc]
