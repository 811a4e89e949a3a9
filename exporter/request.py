"""From flags, ``--set``, a configuration file and the profile to one frozen request.

Precedence: command line > ``--set key=value`` > ``--config FILE`` (TOML) > the profile's defaults > built-in defaults.
An unknown key fails and names the known ones. What was resolved can be written out, and read again as a file.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vggt_edge.devices.errors import InputError, UnknownNameError, UsageError, VggtEdgeError
from vggt_edge.devices.profile import load_profile
from vggt_edge.devices.units import parse_bytes, parse_ms

Precision: TypeAlias = Literal["fp32", "fp16", "w8a16", "w8a8", "w8a8d", "p6a16", "w4a16", "w4a8d", "p4a16", "mixed"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
SensitivityMethod: TypeAlias = Literal["auto", "exact", "probe"]
SENSITIVITY_METHODS: tuple[str, ...] = get_args(SensitivityMethod)
Effort: TypeAlias = Literal["none", "fast", "balanced", "max"]
EFFORTS: tuple[str, ...] = get_args(Effort)
Execution: TypeAlias = Literal["arm"]
EXECUTIONS: tuple[str, ...] = get_args(Execution)

_Name: TypeAlias = Annotated[str, Field(min_length=1)]
_PositiveInt: TypeAlias = Annotated[int, Field(gt=0)]
# Not more than the seeds of synthetic scenes that one run owns (exporter/steps/inputs.py).
_SceneCount: TypeAlias = Annotated[int, Field(gt=0, le=10_000)]


class ExportRequest(BaseModel):
    """All that an export depends on; immutable.

    target: name of a device profile or of an alias.
    model: a name out of the registry, a path to a checkpoint, or a hub id.
    revision: branch, tag or commit of a hub id; None for the default branch.
    scenes: folder, video, COLMAP model or ``transforms.json``; None for the seeded synthetic scenes.
    validate_on: scenes to judge on, in place of a held-out part of ``scenes``; read as ``scenes`` are.
    max_accuracy_drop: a share, 0.02 for two percent.
    frames: S; None for what the model was made for.
    resolution: long side in pixels, or (height, width), multiples of the patch size of the model; None for what the
    model was made for.
    outputs: which heads stay in the graph; None for all that the checkpoint has.
    calibration_scenes, validation_scenes: at most so many of each; None for up to 16 and 8.
    exclude: regular expressions; a block (or ``block.linear``) that one of them matches stays at 16 bits,
    or in FP32 where the device has no FP16.
    group_size: input channels that share an int4 scale.
    sensitivity: how the error of each block and scheme is found: exact ablation, a few backward passes, or by size.
    effort: how much calibration may cost; ``none`` is rounding to nearest, without transforms and tuning.
    opset: of the ONNX graph in the bundle; 21 is read by ONNX Runtime from 1.20 on, 23 keeps attention as one node.
    image_input: the model takes each frame as an image instead of all in one tensor. strict_ane: findings of the Neural
    Engine audit are errors. external_weights: they lie in a file beside the program. All three for targets whose
    runtime knows them.
    execute: emulations that run the artifact as well; ``arm`` is the build of ExecuTorch for a phone's processor.
    output: the folder to make. resume: go on from the cached steps of an earlier run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: _Name = "jetson-orin"
    model: _Name = "vggt-mini"
    revision: _Name | None = None
    scenes: Path | None = None
    validate_on: Path | None = None
    precision: Precision = "mixed"
    max_memory_bytes: _PositiveInt | None = None
    max_latency_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    max_accuracy_drop: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    frames: _PositiveInt | None = None
    resolution: _PositiveInt | tuple[_PositiveInt, _PositiveInt] | None = None
    outputs: Annotated[tuple[_Name, ...], Field(min_length=1)] | None = None
    calibration_scenes: _SceneCount | None = None
    validation_scenes: _SceneCount | None = None
    exclude: tuple[str, ...] = ()
    group_size: Literal[32, 64, 128] = 64
    sensitivity: SensitivityMethod = "auto"
    effort: Effort = "balanced"
    opset: Literal[21, 23] = 21
    image_input: bool = False
    strict_ane: bool = False
    external_weights: bool = False
    seed: Annotated[int, Field(ge=0)] = 0
    execute: tuple[Execution, ...] = ()
    output: Path = Path("out")
    resume: bool = False


# These steer one run and say nothing about its result, so that a file cannot hold them.
RUN_ONLY = ("execute", "output", "resume")
# Names without units are what people type; the field behind each says in what unit it ends up.
_FIELD_OF_KEY = {
    {"max_memory_bytes": "max_memory", "max_latency_ms": "max_latency"}.get(field, field): field
    for field in ExportRequest.model_fields
}
KEYS = tuple(key for key in _FIELD_OF_KEY if key not in RUN_ONLY)


def _text(value: object) -> str:
    if not isinstance(value, str | Path):
        raise UsageError(f"{value!r} is not text")
    return str(value)


def _path(value: object) -> Path:
    """A TOML file holds bytes that are not UTF-8 as ``to_toml`` wrote them."""
    text = re.sub(r"\\udc([89a-f][0-9a-f])", lambda found: chr(0xDC00 + int(found[1], 16)), _text(value))
    return Path(text).expanduser()


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UsageError(f"{value!r} is not a whole number")
    try:
        return int(value)
    except ValueError:
        raise UsageError(f"{value!r} is not a whole number") from None


def _switch(value: object) -> bool:
    """Of a flag, a TOML boolean, or a ``--set``."""
    known = {"true": True, "false": False}
    if isinstance(value, bool):
        return value
    if str(value) not in known:
        raise UsageError(f"{value!r} is neither true nor false")
    return known[str(value)]


def _share(value: object) -> float:
    """``0.02`` and ``"2%"`` are the same."""
    text = str(value).strip()
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise UsageError(f"{value!r} is not a share", expected="a number such as 0.02, or 2%") from None


def _bytes(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else parse_bytes(_text(value))


def _milliseconds(value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(str(value)) if is_number else parse_ms(_text(value))


def _resolution(value: object) -> int | tuple[int, int]:
    """``112`` (long side) or ``84x112`` (height x width); lists come from TOML."""
    parts = list(value) if isinstance(value, list | tuple) else str(value).lower().split("x")
    if len(parts) == 1:
        return _integer(parts[0])
    if len(parts) != 2:
        raise UsageError(f"{value!r} is not a resolution", expected="a long side such as 112, or HxW such as 84x112")
    return _integer(parts[0]), _integer(parts[1])


def _outputs(value: object) -> tuple[str, ...]:
    """Names of heads; which of them a model has is known once it is open."""
    names = tuple(name.strip() for name in _strings(value, split=",") if name.strip())
    if not names:
        raise UsageError("no outputs were requested", expected="names of heads, such as camera,depth")
    return names


def _patterns(value: object) -> tuple[str, ...]:
    patterns = tuple(_strings(value))
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UsageError(f"{pattern!r} is not a regular expression: {error}") from None
    return patterns


def _strings(value: object, split: str = "") -> Iterable[str]:
    if isinstance(value, str):
        return value.split(split) if split else (value,)
    if isinstance(value, list | tuple):
        return tuple(_text(item) for item in value)
    raise UsageError(f"{value!r} is neither text nor a list of text")


def _precision(value: object) -> str:
    name = _text(value)
    if name not in PRECISIONS:
        raise UnknownNameError("precision", name, PRECISIONS)
    return name


def _sensitivity(value: object) -> str:
    name = _text(value)
    if name not in SENSITIVITY_METHODS:
        raise UnknownNameError("sensitivity method", name, SENSITIVITY_METHODS)
    return name


def _effort(value: object) -> str:
    name = _text(value)
    if name not in EFFORTS:
        raise UnknownNameError("effort", name, EFFORTS)
    return name


def _execute(value: object) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in _strings(value, split=",") if name.strip()))
    for name in names:
        if name not in EXECUTIONS:
            raise UnknownNameError("emulation", name, EXECUTIONS)
    return names


_PARSERS: Mapping[str, Callable[[object], object]] = MappingProxyType(
    {
        "target": _text,
        "model": _text,
        "revision": _text,
        "scenes": _path,
        "validate_on": _path,
        "precision": _precision,
        "max_memory": _bytes,
        "max_latency": _milliseconds,
        "max_accuracy_drop": _share,
        "frames": _integer,
        "resolution": _resolution,
        "outputs": _outputs,
        "calibration_scenes": _integer,
        "validation_scenes": _integer,
        "exclude": _patterns,
        "group_size": _integer,
        "sensitivity": _sensitivity,
        "effort": _effort,
        "opset": _integer,
        "image_input": _switch,
        "strict_ane": _switch,
        "external_weights": _switch,
        "seed": _integer,
        "execute": _execute,
        "output": _path,
        "resume": bool,
    }
)


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


def _from_file(path: Path) -> dict[str, _Given]:
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read the configuration: {error}", where=str(path), expected="a TOML file of settings"
        ) from error
    given = {key.replace("-", "_"): _Given(value, f"{path}: {key}") for key, value in raw.items()}
    _refuse_run_only(given)
    return given


def _from_set(texts: Iterable[str]) -> dict[str, _Given]:
    given = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text!r} has no value", expected="--set key=value")
        given[key.strip().replace("-", "_")] = _Given(value.strip(), f"--set {text}")
    _refuse_run_only(given)
    return given


def _refuse_run_only(given: Mapping[str, _Given]) -> None:
    for key in RUN_ONLY:
        if key in given:
            raise UsageError(f"{key!r} can only be given as --{key}", where=given[key].origin)


def _refuse_unknown(given: Mapping[str, _Given]) -> None:
    for key in sorted(set(given) - set(_FIELD_OF_KEY)):
        raise UnknownNameError("setting", key, KEYS, where=given[key].origin)


def _build(given: Mapping[str, _Given]) -> ExportRequest:
    fields: dict[str, object] = {}
    for key, entry in given.items():
        try:
            fields[_FIELD_OF_KEY[key]] = _PARSERS[key](entry.value)
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
    """The request by key, as plain JSON values, without what was left open and without ``RUN_ONLY``."""
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


def _toml_text(text: str) -> str:
    """A basic string: quotes, backslashes and control characters escaped; of other encodings the bytes, as text."""
    text = text.encode(errors="backslashreplace").decode()
    escaped = "".join(
        f"\\{character}" if character in '"\\' else f"\\u{ord(character):04X}" if _is_control(character) else character
        for character in text
    )
    return f'"{escaped}"'


def _is_control(character: str) -> bool:
    return ord(character) < 0x20 or ord(character) == 0x7F
