"""The options that several verbs share, each spelled once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeAlias

import typer


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


_WHAT, _BUDGET, _CONFIG = "What to export", "Budgets and choices", "Configuration"

Target: TypeAlias = Annotated[
    str | None,
    _option("--target", help="One of `vggt-edge targets`, or a profile in TOML. Default: jetson-orin.", panel=_WHAT),
]
Model: TypeAlias = Annotated[
    str | None, _option("--model", help="Registry name, checkpoint file or hub id. Default: vggt-mini.", panel=_WHAT)
]
Revision: TypeAlias = Annotated[
    str | None,
    _option("--revision", help="Branch, tag or commit of a hub id. Default: the default branch.", panel=_WHAT),
]
Scenes: TypeAlias = Annotated[
    Path | None,
    _option("--scenes", help="Images, video, COLMAP model or transforms.json. Default: synthetic scenes.", panel=_WHAT),
]
ValidateOn: TypeAlias = Annotated[
    Path | None,
    _option("--validate-on", help="Scenes to judge on. Default: a fourth of --scenes, held out.", panel=_WHAT),
]
Frames: TypeAlias = Annotated[int | None, _option("--frames", help="Views per inference.", panel=_WHAT)]
Resolution: TypeAlias = Annotated[
    str | None,
    _option(
        "--resolution",
        metavar="SIDE|HxW",
        help="Long side, or height x width, in pixels; multiples of the model's patch size (VGGT: 14).",
        panel=_WHAT,
    ),
]
Outputs: TypeAlias = Annotated[
    str | None,
    _option(
        "--outputs",
        metavar="LIST",
        help="Heads to export, such as camera,depth; the others are removed. Default: all that the checkpoint has.",
        panel=_WHAT,
    ),
]
CalibrationScenes: TypeAlias = Annotated[
    int | None, _option("--calibration-scenes", help="How many to calibrate on. Default: up to 16.", panel=_WHAT)
]
ValidationScenes: TypeAlias = Annotated[
    int | None, _option("--validation-scenes", help="How many to hold out and judge by. Default: up to 8.", panel=_WHAT)
]
Sensitivity: TypeAlias = Annotated[
    str | None,
    _option(
        "--sensitivity",
        metavar="METHOD",
        help="exact, probe, or auto: exact for small models. Default: auto.",
        panel=_BUDGET,
    ),
]
Precision: TypeAlias = Annotated[
    str | None,
    _option(
        "--precision",
        metavar="NAME",
        panel=_BUDGET,
        help="fp32, fp16, w8a16, w8a8, w8a8d, p6a16, w4a16, w4a8d, p4a16 or mixed. Default: mixed.",
    ),
]
MaxMemory: TypeAlias = Annotated[
    str | None, _option("--max-memory", metavar="SIZE", help="Weights on the device, such as 12MB.", panel=_BUDGET)
]
MaxLatency: TypeAlias = Annotated[
    str | None, _option("--max-latency", metavar="TIME", help="Predicted time per inference, as 35ms.", panel=_BUDGET)
]
MaxAccuracyDrop: TypeAlias = Annotated[
    str | None, _option("--max-accuracy-drop", metavar="SHARE", help="Predicted error, 0.02 or 2%.", panel=_BUDGET)
]
Exclude: TypeAlias = Annotated[
    list[str] | None,
    _option("--exclude", metavar="REGEX", help="Keep matching blocks at 16 bits, or FP32; repeatable.", panel=_BUDGET),
]
Effort: TypeAlias = Annotated[
    str | None,
    _option(
        "--effort",
        metavar="LEVEL",
        help="Of calibration: none, fast, balanced or max. Default: balanced.",
        panel=_BUDGET,
    ),
]
Opset: TypeAlias = Annotated[
    int | None,
    _option("--opset", metavar="21|23", help="ONNX opset of model.onnx in the bundle. Default: 21.", panel=_WHAT),
]
ImageInput: TypeAlias = Annotated[
    bool, _option("--image-input", help="Take frames as images, not as one tensor (Core ML).", panel=_WHAT)
]
StrictAne: TypeAlias = Annotated[
    bool, _option("--strict-ane", help="Fail if the Neural Engine would not run an operation.", panel=_BUDGET)
]
ExternalWeights: TypeAlias = Annotated[
    bool, _option("--external-weights", help="Write weights to a file beside the program (ExecuTorch).", panel=_WHAT)
]
Execute: TypeAlias = Annotated[
    str | None,
    _option(
        "--execute",
        metavar="NAME",
        panel=_BUDGET,
        help="Emulation that runs the artifact as well: arm, a phone's kernels under QEMU (`vggt-edge doctor`).",
    ),
]
Seed: TypeAlias = Annotated[int | None, _option("--seed", help="Seed of everything random. Default: 0.", panel=_BUDGET)]
Config: TypeAlias = Annotated[Path | None, _option("--config", metavar="FILE", help="Settings in TOML.", panel=_CONFIG)]
Set: TypeAlias = Annotated[
    list[str] | None,
    _option("--set", metavar="KEY=VALUE", help="One setting, stronger than the file; repeatable.", panel=_CONFIG),
]
Output: TypeAlias = Annotated[
    Path | None, _option("--output", "-o", metavar="FOLDER", help="A folder that does not exist yet. Default: out.")
]
Resume: TypeAlias = Annotated[bool, _option("--resume", help="Go on from the cached steps of an earlier run.")]
DryRun: TypeAlias = Annotated[bool, _option("--dry-run", help="Check and print the configuration; write nothing.")]
Json: TypeAlias = Annotated[bool, _option("--json", help="One JSON document on stdout.")]
Log: TypeAlias = Annotated[
    LogLevel, _option("--log-level", help="debug also shows tracebacks; error hides progress. Default: warning.")
]
Bundle: TypeAlias = Annotated[Path, typer.Argument(metavar="BUNDLE", help="The folder that `export` made.")]
OptionalBundle: TypeAlias = Annotated[
    Path | None, typer.Argument(metavar="[BUNDLE]", help="A bundle, to see what judged it.", show_default=False)
]
