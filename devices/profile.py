"""What a device can do: a frozen ``DeviceProfile``, one TOML file per device (docs/how-to/add-a-device.md)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vggt_edge.devices.cpu import Cores, peak_ops_per_s
from vggt_edge.devices.errors import InputError, UnknownNameError
from vggt_edge.devices.fields import Table, did_you_mean

SCHEMA_VERSION = 1
PROFILE_FOLDER = Path(__file__).parent / "profiles"
DEFAULT_USABLE_SHARE = 0.5
DEFAULT_USABLE_REASON = "half: the operating system and the application need the rest"
_LARGEST_FILE_BYTES = 1 << 20
_OPTIONAL = (
    "aliases",
    "companions",
    "compute_capability",
    "compute_units",
    "cores",
    "features",
    "group_sizes",
    "on_request",
    "power_modes",
    "texture_limit",
    "throughput_ops_per_s",
)
_OPTIONAL_MEMORY = ("usable_share", "usable_reason")
# The dtype that a device computes in which does not list the one that is asked for.
WIDER: Mapping[str, str] = MappingProxyType({"fp4": "fp8", "fp8": "fp16", "int8": "fp16", "fp16": "fp32"})
DTYPES = (*WIDER, "fp32")
COMPUTE_UNITS = ("neural_engine", "gpu", "cpu")


@dataclass(frozen=True)
class Tolerances:
    """Limits of the accuracy gates; None: that quantity is not gated.

    AUC in points of 100, ratios as fractions. The first three need ground truth. The next seven take the FP32 outputs
    as the reference, so that every output is gated on any scene; they have defaults, because a limit that a profile
    leaves out must not switch its gate off. The last two compare the backend's artifact with the torch simulation of
    the same plan. The kits on a device judge by them; the angle is in degrees, between the relative cameras of two
    frames.
    """

    auc30_drop_points_max: float | None = None
    abs_rel_increase_max: float | None = None
    delta125_drop_max: float | None = None
    pose_auc30_vs_fp32_min: float | None = 80.0
    pose_focal_vs_fp32_max: float | None = 0.05
    depth_abs_rel_vs_fp32_max: float | None = 0.05
    points_rel_vs_fp32_max: float | None = 0.05
    rays_rel_vs_fp32_max: float | None = 0.05
    confidence_rel_vs_fp32_max: float | None = 0.05
    sky_changed_vs_fp32_max: float | None = 0.02
    backend_sqnr_db_min: float | None = None
    backend_pose_degrees_max: float | None = 3.0


@dataclass(frozen=True)
class ToolchainRelease:
    """One release of the device's software, such as a JetPack, and the versions of the tools inside it."""

    name: str
    os: str
    tools: Mapping[str, str]


@dataclass(frozen=True)
class Toolchain:
    """``requires``: tool to version range (``>=10.3,<11``); ``opset``: of the ONNX graph, None without ONNX."""

    requires: Mapping[str, str]
    opset: int | None = None
    releases: tuple[ToolchainRelease, ...] = ()


@dataclass(frozen=True)
class DeviceProfile:
    """One device. Throughputs and bandwidth are peak figures; an operation is a multiply or an add (a MAC is two).

    A file gives ``throughput_ops_per_s`` as it is, or the ``cores`` of a CPU to derive it from (devices/cpu.py).

    soc: the chip. power_modes: from the lowest to the highest, which is the one that the figures hold for.
    runtime: name of the backend. companions: further backends that lower and run the same graph beside it.
    compute_units: one of ``COMPUTE_UNITS`` that the artifact is made for; None where the runtime offers no choice.
    schemes: names of precision schemes (calibration/scheme.py), the preferred first. on_request: further ones that the
    device runs, but that a plan uses only when they are asked for by name. group_sizes: allowed sizes of a 4-bit group,
    the default first; empty where there is no 4-bit scheme.
    usable_memory_bytes: what weights and activations of the model may take together, for the reason given.
    layer_overhead_us: fixed cost of one layer beside arithmetic and traffic (launch, synchronisation).
    features: hardware features by name (``dotprod``, ``dla``, ``int8_compute``) that backends and audits may ask for.
    texture_limit: texels along each side of a 3D texture (Vulkan's ``maxImageDimension3D``); None: the runtime's own.
    """

    schema_version: int
    name: str
    title: str
    aliases: tuple[str, ...]
    runtime: str
    companions: tuple[str, ...]
    soc: str
    compute_units: str | None
    compute_capability: str | None
    features: tuple[str, ...]
    memory_bytes: int
    usable_memory_bytes: int
    usable_memory_reason: str
    bandwidth_bytes_per_s: float
    throughput_ops_per_s: Mapping[str, float]
    layer_overhead_us: float
    schemes: tuple[str, ...]
    on_request: tuple[str, ...]
    group_sizes: tuple[int, ...]
    toolchain: Toolchain
    tolerances: Tolerances
    power_modes: tuple[str, ...]
    texture_limit: int | None = None

    @property
    def runnable(self) -> tuple[str, ...]:
        """Every scheme that the device runs: those that a plan uses by itself, then those on request."""
        return (*self.schemes, *self.on_request)

    @property
    def figures_hold_for(self) -> str:
        """The chip that throughputs and bandwidth belong to and, where it has power modes, the one that they need."""
        return f"{self.soc} in power mode {self.power_modes[-1]}" if self.power_modes else self.soc

    def compute_dtype(self, dtype: str) -> str:
        """The dtype that ``dtype`` is really computed in: itself, or the next wider one that the device lists."""
        while dtype not in self.throughput_ops_per_s:
            dtype = WIDER[dtype]
        return dtype

    def ops_per_s(self, dtype: str) -> float:
        return self.throughput_ops_per_s[self.compute_dtype(dtype)]

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers, for JSON."""
        plain = _plain(self)
        assert isinstance(plain, dict)
        return plain


def load_profile(name_or_path: str | Path) -> DeviceProfile:
    """The profile of a target as the user gave it: a name, an alias, or the path of a TOML file.

    What ends in ``.toml`` or holds a slash is a path. Raises ``UnknownNameError`` for a name that no profile has and
    ``InputError`` for a file that cannot be read or holds a wrong value.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith(".toml") or "/" in text or "\\" in text:
        return _read(Path(name_or_path))
    return resolve(text)


def list_profiles() -> tuple[DeviceProfile, ...]:
    """The built-in profiles in the order of their names."""
    return _catalog(PROFILE_FOLDER)


def resolve(name: str) -> DeviceProfile:
    """The built-in profile with this name or alias; ``UnknownNameError`` lists the known ones."""
    known = {label: profile for profile in list_profiles() for label in (profile.name, *profile.aliases)}
    if name in known:
        return known[name]
    error = UnknownNameError("target", name, known)
    hint = did_you_mean(name.lower(), known).strip(" ()")
    error.remedy = f"{hint}{' ' if hint else ''}`vggt-edge targets` describes them; --target also takes a TOML file"
    raise error


@cache
def _catalog(folder: Path) -> tuple[DeviceProfile, ...]:
    """Every profile of a folder. A file is named after its profile, and no name or alias is used twice."""
    owner: dict[str, str] = {}
    profiles = []
    for path in sorted(folder.glob("*.toml")):
        profile = _read(path)
        if profile.name != path.stem:
            raise InputError(
                f"key name: {profile.name!r}", where=str(path), expected=f"{path.stem!r}, as the file is called"
            )
        for label in (profile.name, *profile.aliases):
            if label in owner:
                raise InputError(
                    f"{label!r} is already a name or alias of {owner[label]}",
                    where=str(path),
                    expected="names and aliases that no other profile has",
                )
            owner[label] = path.name
        profiles.append(profile)
    return tuple(sorted(profiles, key=lambda profile: profile.name))


def _read(path: Path) -> DeviceProfile:
    expected = "a device profile in TOML (docs/how-to/add-a-device.md)"
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE_BYTES + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot read the profile: {reason}", where=str(path), expected=expected) from error
    if len(content) > _LARGEST_FILE_BYTES:
        raise InputError("the profile is larger than 1 MiB", where=str(path), expected=expected)
    try:
        raw = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"not a TOML file: {error}", where=str(path), expected=expected) from error
    return _profile(Table(raw, str(path)))


def _profile(table: Table) -> DeviceProfile:
    if table.integer("schema_version") != SCHEMA_VERSION:
        table.fail("schema_version", "is not one that this version reads", str(SCHEMA_VERSION))
    memory = table.table("memory")
    memory_bytes, usable_bytes, usable_reason = _memory(memory)
    profile = DeviceProfile(
        schema_version=SCHEMA_VERSION,
        name=table.name("name"),
        title=table.text("title"),
        aliases=_names(table, "aliases"),
        runtime=table.name("runtime"),
        companions=_names(table, "companions"),
        soc=table.text("soc"),
        compute_units=table.choice("compute_units", COMPUTE_UNITS) if table.has("compute_units") else None,
        compute_capability=_compute_capability(table),
        features=_names(table, "features"),
        memory_bytes=memory_bytes,
        usable_memory_bytes=usable_bytes,
        usable_memory_reason=usable_reason,
        bandwidth_bytes_per_s=memory.number("bandwidth_bytes_per_s", above=0),
        throughput_ops_per_s=_throughput(table),
        layer_overhead_us=table.number("layer_overhead_us", at_least=0, at_most=1e6),
        schemes=table.texts("schemes", names=True),
        on_request=_names(table, "on_request"),
        group_sizes=table.integers("group_sizes") if table.has("group_sizes") else (),
        toolchain=_toolchain(table.table("toolchain")),
        tolerances=_tolerances(table.table("tolerances")),
        power_modes=table.texts("power_modes") if table.has("power_modes") else (),
        texture_limit=_texture_limit(table),
    )
    if not profile.schemes:
        table.fail("schemes", "is empty", "at least one scheme, the preferred one first")
    if twice := sorted({*profile.on_request} & {*profile.schemes}):
        table.fail(
            "on_request", f"{twice[0]!r} is one of schemes already", "schemes that a plan does not use by itself"
        )
    if profile.runtime in profile.companions:
        table.fail("companions", f"{profile.runtime!r} is the runtime itself", "further backends")
    memory.done(_OPTIONAL_MEMORY)
    table.done(_OPTIONAL)
    return profile


def _names(table: Table, key: str) -> tuple[str, ...]:
    """An optional list of names."""
    return table.texts(key, names=True) if table.has(key) else ()


def _memory(table: Table) -> tuple[int, int, str]:
    """(bytes, usable bytes, why that much)."""
    total = table.size("bytes")
    if not table.has("usable_share"):
        return total, int(total * DEFAULT_USABLE_SHARE), DEFAULT_USABLE_REASON
    share = table.number("usable_share", above=0, at_most=1)
    return total, int(total * share), table.text("usable_reason", "one line: why this share of the memory is usable")


def _compute_capability(table: Table) -> str | None:
    if not table.has("compute_capability"):
        return None
    return table.text("compute_capability", 'a CUDA compute capability such as "8.7"', r"\d{1,2}\.\d")


def _texture_limit(table: Table) -> int | None:
    return table.integer("texture_limit", at_least=256, at_most=65536) if table.has("texture_limit") else None


def _throughput(profile: Table) -> Mapping[str, float]:
    """As written, or of a CPU from its cores and features; only one of the two may be there."""
    if profile.has("cores"):
        if profile.has("throughput_ops_per_s"):
            profile.fail("cores", "goes without throughput_ops_per_s", "one of the two")
        cores = [_cores(entry) for entry in profile.tables("cores")]
        if not cores:
            profile.fail("cores", "is empty", "at least one kind of core")
        return frozen_map(peak_ops_per_s(cores, _names(profile, "features")))
    table = profile.table("throughput_ops_per_s")
    rates = {dtype: table.number(dtype, above=0) for dtype in DTYPES if table.has(dtype) or dtype == "fp32"}
    table.done(DTYPES)
    return frozen_map(rates)


def _cores(table: Table) -> Cores:
    cores = Cores(
        name=table.text("name"),
        count=table.integer("count", at_most=1024),
        clock_hz=table.number("clock_hz", above=0, at_most=1e11),
        pipes=table.integer("pipes", at_most=64),
    )
    table.done()
    return cores


def _toolchain(table: Table) -> Toolchain:
    clause = r"(?:>=|<=|==|!=|>|<)\s*\d+(?:\.\d+)*"
    requires = table.table("requires")
    ranges = {
        tool: requires.text(tool, 'a version range such as ">=10.3,<11"', rf"{clause}(?:\s*,\s*{clause})*")
        for tool in requires.names()
    }
    opset = table.integer("opset", at_least=7, at_most=99) if table.has("opset") else None
    releases = tuple(_release(entry) for entry in table.tables("releases")) if table.has("releases") else ()
    table.done(("requires", "opset", "releases"))
    return Toolchain(frozen_map(ranges), opset, releases)


def _release(table: Table) -> ToolchainRelease:
    tools = table.table("tools")
    release = ToolchainRelease(
        name=table.text("name"),
        os=table.text("os"),
        tools=frozen_map({tool: tools.text(tool) for tool in tools.names()}),
    )
    table.done()
    return release


def _tolerances(table: Table) -> Tolerances:
    names = tuple(field.name for field in fields(Tolerances))
    limits = {name: table.number(name, at_least=0, at_most=_highest(name)) for name in names if table.has(name)}
    table.done(names)
    return Tolerances(**limits)


def _highest(tolerance: str) -> float:
    """Points and decibels go up to 100 (an SQNR of 100 dB is bit-exact for FP16 work), angles to 180, ratios to 1."""
    if "auc30" in tolerance or "_db_" in tolerance:
        return 100
    return 180 if "_degrees_" in tolerance else 1


def frozen_map(items: Mapping[str, Any]) -> Mapping[str, Any]:
    """A read-only copy in sorted order, so that equal profiles print equally."""
    return MappingProxyType(dict(sorted(items.items())))


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
