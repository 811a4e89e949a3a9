"""The options that several verbs share, each spelled once."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from inspect import Parameter
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from vggt_edge.exporter.request import SETTINGS
from vggt_edge.exporter.settings import TIME_LIMIT_S, Parser, Setting, path, patterns, switch, whole_number

# What typer turns the words of a command line into, before the setting's parser reads them; other settings take text.
_TYPED_AS: Mapping[Parser, object] = {
    path: Path | None,
    whole_number: int | None,
    switch: bool,
    patterns: list[str] | None,
}


NO_VALUE = ""  # the metavar of a switch; without one, help would say that it takes a bool


class LogLevel(StrEnum):
    """How much is logged on stderr."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _option(*names: str, help: str, metavar: str | None = None, panel: str | None = None) -> typer.models.OptionInfo:
    info: typer.models.OptionInfo = typer.Option(
        *names, help=help, metavar=metavar, rich_help_panel=panel, show_default=False
    )
    return info


def option_of(key: str) -> typer.models.OptionInfo:
    """The flag of a setting, as the setting declares it."""
    setting = SETTINGS[key]
    names = (f"--{key.replace('_', '-')}", *setting.flags)
    metavar = NO_VALUE if setting.parse is switch else setting.metavar
    return _option(*names, help=setting.help, metavar=metavar, panel=setting.panel)


def flags_of_settings() -> list[Parameter]:
    """Parameters for typer (name, type, help), a parameter for every setting that has a flag."""
    return [_parameter(key, setting) for key, setting in SETTINGS.items() if setting.has_flag]


def _parameter(key: str, setting: Setting) -> Parameter:
    typed = _TYPED_AS.get(setting.parse, str | None)
    default = False if typed is bool else None
    return Parameter(key, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[typed, option_of(key)])


Target: TypeAlias = Annotated[str | None, option_of("target")]
Model: TypeAlias = Annotated[str | None, option_of("model")]
Scenes: TypeAlias = Annotated[Path | None, option_of("scenes")]
BundleModel: TypeAlias = Annotated[
    str | None,
    _option("--model", help="Checkpoint that the bundle was made from. Needed unless that is vggt-mini."),
]
BundleTarget: TypeAlias = Annotated[
    str | None,
    _option("--target", metavar="FILE", help="Device profile of the bundle. Needed unless that is built in."),
]
BundleScenes: TypeAlias = Annotated[
    Path | None,
    _option("--scenes", help="Scenes to judge on. Default: the synthetic rooms, or the one scene in the bundle."),
]
TimeLimit: TypeAlias = Annotated[
    float,
    _option(
        "--time-limit",
        metavar="SECONDS",
        help=f"End the validation after this time. Default: {TIME_LIMIT_S}, {TIME_LIMIT_S // 3600} hours.",
    ),
]
Frames: TypeAlias = Annotated[int | None, option_of("frames")]
Execute: TypeAlias = Annotated[str | None, option_of("execute")]
Seed: TypeAlias = Annotated[int | None, option_of("seed")]
Config: TypeAlias = Annotated[
    Path | None,
    _option(
        "--config",
        metavar="FILE",
        help="Read settings from a TOML file; options on the command line win.",
        panel="Configuration",
    ),
]
Set: TypeAlias = Annotated[
    list[str] | None,
    _option(
        "--set", metavar="KEY=VALUE", help="Set one setting; wins over the file; repeatable.", panel="Configuration"
    ),
]
DryRun: TypeAlias = Annotated[
    bool,
    _option(
        "--dry-run",
        metavar=NO_VALUE,
        help="Print the configuration and the time, memory and disk that the command needs; write nothing.",
    ),
]
Json: TypeAlias = Annotated[
    bool, _option("--json", metavar=NO_VALUE, help="Print the result as one JSON document on stdout.")
]
Log: TypeAlias = Annotated[
    LogLevel,
    _option("--log-level", help="Messages on stderr: debug adds tracebacks, error hides progress. Default: warning."),
]
_SIGNATURE = "Signature"
SignKey: TypeAlias = Annotated[
    Path | None,
    _option(
        "--sign-key",
        metavar="FILE",
        help="Sign the bundle with this private key (elliptic curve, PEM). The environment variable "
        "VGGT_EDGE_KEY_PASSPHRASE holds the passphrase of an encrypted key.",
        panel=_SIGNATURE,
    ),
]
SignCertificate: TypeAlias = Annotated[
    Path | None,
    _option(
        "--certificate",
        metavar="FILE",
        help="Certificate of the private key (PEM), to be put into the signature.",
        panel=_SIGNATURE,
    ),
]
SignChain: TypeAlias = Annotated[
    list[Path] | None,
    _option(
        "--certificate-chain",
        metavar="FILE",
        help="Certificates of the issuers, to be put into the signature; repeatable.",
        panel=_SIGNATURE,
    ),
]
Release: TypeAlias = Annotated[
    int | None,
    _option(
        "--release",
        metavar="NUMBER",
        help="Number of this release, to be signed. `verify --min-release` refuses bundles with a smaller number.",
        panel=_SIGNATURE,
    ),
]
Purpose: TypeAlias = Annotated[
    str | None,
    _option(
        "--purpose",
        metavar="NAME",
        help="What the bundle is for: commercial or research. Commercial use has to be allowed by the licence of the "
        "weights. Default: not said, and not compared.",
        panel=_SIGNATURE,
    ),
]
AcceptLicense: TypeAlias = Annotated[
    str | None,
    _option(
        "--accept-license",
        metavar="SPDX",
        help="Answer for a licence of the weights that does not allow the purpose by itself, or is unknown.",
        panel=_SIGNATURE,
    ),
]
TrustedKey: TypeAlias = Annotated[
    Path | None,
    _option("--key", metavar="FILE", help="Public key (PEM) whose signature the bundle must have."),
]
TrustedChain: TypeAlias = Annotated[
    list[Path] | None,
    _option(
        "--certificate-chain",
        metavar="FILE",
        help="Trusted certificates (PEM). The bundle must be signed by a certificate under one of them; repeatable.",
    ),
]
Identity: TypeAlias = Annotated[
    str | None,
    _option(
        "--identity",
        metavar="NAME",
        help="Name that the signing certificate must hold: mail address, URI, host or common name.",
    ),
]
MinRelease: TypeAlias = Annotated[
    int | None,
    _option("--min-release", metavar="NUMBER", help="Smallest release number to accept; refuses replayed old bundles."),
]
Bundle: TypeAlias = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder that `vggt-edge export` created.")]
OptionalBundle: TypeAlias = Annotated[
    Path | None,
    typer.Argument(
        metavar="[BUNDLE]",
        help="Bundle whose runtimes to list: what judged it, and what the device has.",
        show_default=False,
    ),
]
