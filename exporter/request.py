"""From flags, ``--set``, a configuration file and the profile to one frozen request.

Precedence: command line > ``--set key=value`` > ``--config FILE`` (TOML) > the profile's defaults > built-in defaults.
An unknown key fails and names the known ones. What was resolved can be written out, and read again as a file.
A new setting is one field of ``ExportRequest``: flag, ``--help``, keys of files and the TOML follow from it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from vggt_edge.calibration.scenes.framing import MODES, PIXEL_CENTERS, Mode, PixelCenters
from vggt_edge.calibration.scheme import COMPARED_ONLY, SCHEMES
from vggt_edge.devices.errors import InputError, UnknownNameError, UsageError, VggtEdgeError
from vggt_edge.devices.profile import load_profile
from vggt_edge.exporter import settings as read
from vggt_edge.exporter.settings import BUDGET, Setting

PRECISIONS = (*(name for name in SCHEMES if name not in COMPARED_ONLY), "mixed")
SENSITIVITY_METHODS = ("auto", "exact", "probe")
EFFORTS = ("none", "fast", "balanced", "max")
EXECUTIONS = ("arm",)
_precision = read.one_of("precision", PRECISIONS)
_sensitivity = read.one_of("sensitivity method", SENSITIVITY_METHODS)
_effort = read.one_of("effort", EFFORTS)
_preprocess = read.one_of("preprocessing", MODES)
_pixel_centers = read.one_of("place of pixel centres", PIXEL_CENTERS)
_execute = read.some_of("emulation", EXECUTIONS)

_Name: TypeAlias = Annotated[str, Field(min_length=1)]
_PositiveInt: TypeAlias = Annotated[int, Field(gt=0)]
_PositiveFloat: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Names: TypeAlias = Annotated[tuple[_Name, ...], Field(min_length=1)]
# Not more than the seeds of synthetic scenes that one run owns (exporter/steps/inputs.py).
_SceneCount: TypeAlias = Annotated[int, Field(gt=0, le=10_000)]


class ExportRequest(BaseModel):
    """The settings of an export; immutable. ``vggt-edge export --help`` explains each field.

    A field that is None is left to the model, the profile or the rest of the request, as its help says.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: Annotated[
        _Name,
        Setting(
            "Device to export for: a name that `vggt-edge targets` lists, or a profile file (TOML). "
            "Default: jetson-orin.",
            parse=read.text,
        ),
    ] = "jetson-orin"
    model: Annotated[
        _Name,
        Setting(
            "Checkpoint to export: a file, a Hugging Face hub id, or vggt-mini, the embedded one. Default: vggt-mini.",
            parse=read.text,
        ),
    ] = "vggt-mini"
    revision: Annotated[
        _Name | None,
        Setting("Branch, tag or commit of the hub repository. Default: its default branch.", parse=read.text),
    ] = None
    model_license: Annotated[
        _Name | None,
        Setting(
            "Licence of the checkpoint, as an SPDX identifier such as CC-BY-NC-4.0. "
            "Default: what is known of vggt-mini and of facebook/VGGT-1B, else unknown.",
            parse=read.text,
            metavar="SPDX",
        ),
    ] = None
    architecture: Annotated[
        _Name | None,
        Setting(
            "Architecture of the checkpoint, where its tensors fit several: vggt or streamvggt. "
            "Default: told by the checkpoint's names.",
            parse=read.text,
        ),
    ] = None
    scenes: Annotated[
        Path | None,
        Setting(
            "Scenes to calibrate on: a folder of images, a video, a COLMAP model or a transforms.json. "
            "Default: synthetic rooms.",
            parse=read.path,
        ),
    ] = None
    validate_on: Annotated[
        Path | None, Setting("Scenes for validation. Default: a quarter of --scenes is held out.", parse=read.path)
    ] = None
    precision: Annotated[
        str,
        AfterValidator(_precision),
        Setting(
            f"Precision of all blocks: {', '.join(PRECISIONS[:-1])}; mixed chooses one for each block. Default: mixed.",
            panel=BUDGET,
            parse=_precision,
            metavar="NAME",
        ),
    ] = "mixed"
    max_memory_bytes: Annotated[
        _PositiveInt | None,
        Setting(
            "Largest size of the weights on the device, such as 12MB.",
            panel=BUDGET,
            parse=read.size,
            metavar="SIZE",
            key="max_memory",
        ),
    ] = None
    max_latency_ms: Annotated[
        _PositiveFloat | None,
        Setting(
            "Largest predicted time per inference, such as 35ms.",
            panel=BUDGET,
            parse=read.duration,
            metavar="TIME",
            key="max_latency",
        ),
    ] = None
    max_accuracy_drop: Annotated[
        Annotated[float, Field(ge=0, allow_inf_nan=False)] | None,
        Setting(
            "Largest predicted error of the outputs, such as 0.02 or 2%.",
            panel=BUDGET,
            parse=read.share,
            metavar="SHARE",
        ),
    ] = None
    frames: Annotated[
        _PositiveInt | None,
        Setting("Number of images per inference. Default: what the model was made for.", parse=read.whole_number),
    ] = None
    resolution: Annotated[
        _PositiveInt | tuple[_PositiveInt, _PositiveInt] | None,
        Setting(
            "Input size in pixels: the long side, or height x width; multiples of the model's patch size (VGGT: 14).",
            parse=read.resolution,
            metavar="SIDE|HxW",
        ),
    ] = None
    preprocess: Annotated[
        Mode,
        Setting(
            "How pictures become the input: fit (fill it, crop the rest), crop (VGGT's default: full width, height "
            "cropped or filled up with white) or pad (whole picture, the rest white). Default: fit.",
            parse=_preprocess,
            metavar="MODE",
        ),
    ] = "fit"
    pixel_centers: Annotated[
        PixelCenters,
        Setting(
            "Where the centre of the first pixel lies when depth becomes points: half (0.5) or integer (0, as in "
            "VGGT's first releases). Default: half.",
            parse=_pixel_centers,
            metavar="PLACE",
        ),
    ] = "half"
    outputs: Annotated[
        _Names | None,
        Setting(
            "Heads to export, such as camera,depth; the others are removed from the graph. Default: all of "
            "the checkpoint.",
            parse=read.listed,
            metavar="LIST",
        ),
    ] = None
    calibration_scenes: Annotated[
        _SceneCount | None,
        Setting("Largest number of scenes used for calibration. Default: 16.", parse=read.whole_number),
    ] = None
    validation_scenes: Annotated[
        _SceneCount | None,
        Setting("Largest number of scenes held out for validation. Default: 8.", parse=read.whole_number),
    ] = None
    exclude: Annotated[
        tuple[str, ...],
        Setting(
            "Do not quantize blocks or layers whose whole name matches; repeatable.",
            panel=BUDGET,
            parse=read.patterns,
            metavar="REGEX",
        ),
    ] = ()
    group_size: Annotated[
        Literal[32, 64, 128],
        Setting(
            "Input channels that share an int4 scale. Default: what the profile puts first.",
            panel=BUDGET,
            parse=read.whole_number,
            has_flag=False,
        ),
    ] = 64
    sensitivity: Annotated[
        str,
        AfterValidator(_sensitivity),
        Setting(
            "How the error of each block is measured: exact (one forward pass each), probe (one backward "
            "pass), or auto. Default: auto, which is exact for small models.",
            panel=BUDGET,
            parse=_sensitivity,
            metavar="METHOD",
        ),
    ] = "auto"
    effort: Annotated[
        str,
        AfterValidator(_effort),
        Setting(
            "How long to tune the quantized weights: none, fast, balanced or max. Default: balanced.",
            panel=BUDGET,
            parse=_effort,
            metavar="LEVEL",
        ),
    ] = "balanced"
    opset: Annotated[
        Literal[21, 23],
        Setting("ONNX opset of model.onnx in the bundle. Default: 21.", parse=read.whole_number, metavar="21|23"),
    ] = 21
    image_input: Annotated[
        bool,
        Setting(
            "Core ML only: the model takes each frame as an image instead of all frames in one tensor.",
            parse=read.switch,
        ),
    ] = False
    strict_ane: Annotated[
        bool,
        Setting(
            "Core ML only: fail if an operation would not run on the Neural Engine.", panel=BUDGET, parse=read.switch
        ),
    ] = False
    strict: Annotated[
        bool,
        Setting(
            "TensorRT only: fail unless the compiled plan computes every product in the type that was asked for, "
            "with its weights packed in memory.",
            panel=BUDGET,
            parse=read.switch,
            run_only=True,
        ),
    ] = False
    fuse_io: Annotated[
        Annotated[str, AfterValidator(read.camera)] | None,
        Setting(
            "TensorRT only: also write a graph that takes a camera's uint8 frames, such as rgb:1920x1080 or "
            "nv12:1920x1080, and gives cameras and world points. Default: none.",
            parse=read.camera,
            metavar="FORMAT:WxH",
        ),
    ] = None
    external_weights: Annotated[
        bool, Setting("ExecuTorch only: write the weights to a file beside the program.", parse=read.switch)
    ] = False
    seed: Annotated[
        Annotated[int, Field(ge=0)],
        Setting("Seed of all random choices. Default: 0.", panel=BUDGET, parse=read.whole_number),
    ] = 0
    execute: Annotated[
        tuple[str, ...],
        AfterValidator(_execute),
        Setting(
            "Also run the artifact in an emulation: arm runs a phone's kernels under QEMU; see `vggt-edge doctor`.",
            panel=BUDGET,
            parse=_execute,
            metavar="NAME",
            run_only=True,
        ),
    ] = ()
    output: Annotated[
        Path,
        Setting(
            "Folder to create; it must not exist yet. Default: out.",
            panel=None,
            parse=read.path,
            metavar="FOLDER",
            flags=("-o",),
            run_only=True,
        ),
    ] = Path("out")
    resume: Annotated[
        bool,
        Setting(
            "Continue an interrupted run: finished steps are not repeated.",
            panel=None,
            parse=read.switch,
            run_only=True,
        ),
    ] = False


def _setting(field: str) -> Setting:
    return next(one for one in ExportRequest.model_fields[field].metadata if isinstance(one, Setting))


# Names without units are what people type; the field behind each says in what unit it ends up.
SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {_setting(field).key or field: _setting(field) for field in ExportRequest.model_fields}
)
_FIELD_OF_KEY = dict(zip(SETTINGS, ExportRequest.model_fields, strict=True))
KEYS = tuple(key for key, setting in SETTINGS.items() if not setting.run_only)


@dataclass(frozen=True)
class _Given:
    """A value, and where it was given."""

    value: object
    origin: str


def resolve_request(
    cli_values: Mapping[str, object],
    set_values: Iterable[str] = (),
    config_file: Path | None = None,
    profile_defaults: Callable[[str], Mapping[str, object]] | None = None,
) -> ExportRequest:
    """Merge the sources into one request.

    cli_values: by key (``max_memory`` for ``--max-memory``); None and () mean "not given".
    set_values: ``key=value`` texts. profile_defaults: target name -> that profile's own settings.
    Raises ``UsageError`` that names the flag, key or file at fault, and ``InputError`` for an unreadable file.
    """
    given = _from_file(config_file) if config_file else {}
    given |= _from_set(set_values)
    given |= {
        key: _Given(value, f"--{key.replace('_', '-')}")
        for key, value in cli_values.items()
        if value is not None and value != ()
    }
    if profile_defaults is not None:
        target = str(given["target"].value) if "target" in given else ExportRequest().target
        defaults = {key: _Given(value, f"profile {target}") for key, value in profile_defaults(target).items()}
        given = defaults | given
    _refuse_unknown(given)
    return _build(given)


def settings_of_profile(target: str) -> Mapping[str, object]:
    """What a profile settles unless something stronger does. ``UnknownNameError`` if there is no such target."""
    profile = load_profile(target)
    found: dict[str, object] = {"group_size": profile.group_sizes[0]} if profile.group_sizes else {}
    if profile.toolchain.opset is not None:
        found["opset"] = profile.toolchain.opset
    return found


def _from_file(file: Path) -> dict[str, _Given]:
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read the configuration: {error}", where=str(file), expected="a TOML file of settings"
        ) from error
    given = {key.replace("-", "_"): _Given(value, f"{file}: {key}") for key, value in raw.items()}
    _refuse_run_only(given)
    return given


def _from_set(texts: Iterable[str]) -> dict[str, _Given]:
    given = {}
    for given_text in texts:
        key, equals, value = given_text.partition("=")
        if not equals:
            raise UsageError(f"--set {given_text!r} has no value", expected="--set key=value")
        given[key.strip().replace("-", "_")] = _Given(value.strip(), f"--set {given_text}")
    _refuse_run_only(given)
    return given


def _refuse_run_only(given: Mapping[str, _Given]) -> None:
    for key in given:
        if key in SETTINGS and SETTINGS[key].run_only:
            raise UsageError(f"{key!r} can only be given as --{key}", where=given[key].origin)


def _refuse_unknown(given: Mapping[str, _Given]) -> None:
    for key in sorted(set(given) - set(_FIELD_OF_KEY)):
        raise UnknownNameError("setting", key, KEYS, where=given[key].origin)


def _build(given: Mapping[str, _Given]) -> ExportRequest:
    fields: dict[str, object] = {}
    for key, entry in given.items():
        try:
            fields[_FIELD_OF_KEY[key]] = SETTINGS[key].parse(entry.value)
        except VggtEdgeError as error:
            # Parsers know values only; the place is known here.
            error.where = error.where or entry.origin
            raise
    try:
        return ExportRequest.model_validate(fields)
    except ValidationError as error:
        problem = error.errors()[0]
        key = {field: key for key, field in _FIELD_OF_KEY.items()}[str(problem["loc"][0])]
        raise UsageError(
            f"{key} cannot be {given[key].value!r}", where=given[key].origin, expected=problem["msg"]
        ) from error


def to_settings(request: ExportRequest) -> dict[str, object]:
    """The request by key, as plain JSON values, without what was left open and what steers one run only."""
    values = request.model_dump(mode="json")
    settings = {key: values[_FIELD_OF_KEY[key]] for key in KEYS}
    return {key: value for key, value in settings.items() if value is not None}


def to_toml(request: ExportRequest) -> str:
    """The same settings as TOML; ``--config`` of the text gives the same request again."""
    lines = ["# The resolved configuration; repeat the run with: vggt-edge export --config <this file> -o <folder>"]
    lines += [f"{key} = {_toml_value(value)}" for key, value in to_settings(request).items()]
    return "\n".join(lines) + "\n"


def _toml_value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    return _toml_text(str(value))


def _toml_text(value: str) -> str:
    """A basic string: quotes, backslashes and control characters escaped; of other encodings the bytes, as text."""
    shown = value.encode(errors="backslashreplace").decode()
    escaped = "".join(
        f"\\{character}" if character in '"\\' else f"\\u{ord(character):04X}" if _is_control(character) else character
        for character in shown
    )
    return f'"{escaped}"'


def _is_control(character: str) -> bool:
    return ord(character) < 0x20 or ord(character) == 0x7F
