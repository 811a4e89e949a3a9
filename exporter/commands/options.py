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
    _option(
        "--target",
        help="Device to export for: a name that `vggt-edge targets` lists, or a profile file (TOML). "
        "Default: jetson-orin.",
        panel=_WHAT,
    ),
]
Model: TypeAlias = Annotated[
    str | None,
    _option(
        "--model",
        help="Checkpoint to export: a file, a Hugging Face hub id, or vggt-mini, the embedded one. Default: vggt-mini.",
        panel=_WHAT,
    ),
]
Revision: TypeAlias = Annotated[
    str | None,
    _option(
        "--revision", help="Branch, tag or commit of the hub repository. Default: its default branch.", panel=_WHAT
    ),
]
Scenes: TypeAlias = Annotated[
    Path | None,
    _option(
        "--scenes",
        help="Scenes to calibrate on: a folder of images, a video, a COLMAP model or a transforms.json. "
        "Default: synthetic rooms.",
        panel=_WHAT,
    ),
]
ValidateOn: TypeAlias = Annotated[
    Path | None,
    _option("--validate-on", help="Scenes for validation. Default: a quarter of --scenes is held out.", panel=_WHAT),
]
Frames: TypeAlias = Annotated[
    int | None,
    _option("--frames", help="Number of images per inference. Default: what the model was made for.", panel=_WHAT),
]
Resolution: TypeAlias = Annotated[
    str | None,
    _option(
        "--resolution",
        metavar="SIDE|HxW",
        help="Input size in pixels: the long side, or height x width; multiples of the model's patch size (VGGT: 14).",
        panel=_WHAT,
    ),
]
Outputs: TypeAlias = Annotated[
    str | None,
    _option(
        "--outputs",
        metavar="LIST",
        help="Heads to export, such as camera,depth; the others are removed from the graph. Default: all "
        "of the checkpoint.",
        panel=_WHAT,
    ),
]
CalibrationScenes: TypeAlias = Annotated[
    int | None,
    _option("--calibration-scenes", help="Largest number of scenes used for calibration. Default: 16.", panel=_WHAT),
]
ValidationScenes: TypeAlias = Annotated[
    int | None,
    _option("--validation-scenes", help="Largest number of scenes held out for validation. Default: 8.", panel=_WHAT),
]
Sensitivity: TypeAlias = Annotated[
    str | None,
    _option(
        "--sensitivity",
        metavar="METHOD",
        help="How the error of each block is measured: exact (one forward pass each), probe (one backward "
        "pass), or auto. "
        "Default: auto, which is exact for small models.",
        panel=_BUDGET,
    ),
]
Precision: TypeAlias = Annotated[
    str | None,
    _option(
        "--precision",
        metavar="NAME",
        panel=_BUDGET,
        help="Precision of all blocks: fp32, fp16, w8a16, w8a8, w8a8d, p6a16, w4a16, w4a8d or p4a16; "
        "mixed chooses one for "
        "each block. Default: mixed.",
    ),
]
MaxMemory: TypeAlias = Annotated[
    str | None,
    _option(
        "--max-memory", metavar="SIZE", help="Largest size of the weights on the device, such as 12MB.", panel=_BUDGET
    ),
]
MaxLatency: TypeAlias = Annotated[
    str | None,
    _option("--max-latency", metavar="TIME", help="Largest predicted time per inference, such as 35ms.", panel=_BUDGET),
]
MaxAccuracyDrop: TypeAlias = Annotated[
    str | None,
    _option(
        "--max-accuracy-drop",
        metavar="SHARE",
        help="Largest predicted error of the outputs, such as 0.02 or 2%.",
        panel=_BUDGET,
    ),
]
Exclude: TypeAlias = Annotated[
    list[str] | None,
    _option(
        "--exclude",
        metavar="REGEX",
        help="Do not quantize blocks or layers whose whole name matches; repeatable.",
        panel=_BUDGET,
    ),
]
Effort: TypeAlias = Annotated[
    str | None,
    _option(
        "--effort",
        metavar="LEVEL",
        help="How long to tune the quantized weights: none, fast, balanced or max. Default: balanced.",
        panel=_BUDGET,
    ),
]
Opset: TypeAlias = Annotated[
    int | None,
    _option("--opset", metavar="21|23", help="ONNX opset of model.onnx in the bundle. Default: 21.", panel=_WHAT),
]
ImageInput: TypeAlias = Annotated[
    bool,
    _option(
        "--image-input",
        help="Core ML only: the model takes each frame as an image instead of all frames in one tensor.",
        panel=_WHAT,
    ),
]
StrictAne: TypeAlias = Annotated[
    bool,
    _option(
        "--strict-ane", help="Core ML only: fail if an operation would not run on the Neural Engine.", panel=_BUDGET
    ),
]
Seed: TypeAlias = Annotated[
    int | None, _option("--seed", help="Seed of all random choices. Default: 0.", panel=_BUDGET)
]
Config: TypeAlias = Annotated[
    Path | None,
    _option(
        "--config",
        metavar="FILE",
        help="Read settings from a TOML file; options on the command line win.",
        panel=_CONFIG,
    ),
]
ExternalWeights: TypeAlias = Annotated[
    bool,
    _option("--external-weights", help="ExecuTorch only: write the weights to a file beside the program.", panel=_WHAT),
]
Execute: TypeAlias = Annotated[
    str | None,
    _option(
        "--execute",
        metavar="NAME",
        panel=_BUDGET,
        help="Also run the artifact in an emulation: arm runs a phone's kernels under QEMU; see `vggt-edge doctor`.",
    ),
]
Set: TypeAlias = Annotated[
    list[str] | None,
    _option("--set", metavar="KEY=VALUE", help="Set one setting; wins over the file; repeatable.", panel=_CONFIG),
]
Output: TypeAlias = Annotated[
    Path | None,
    _option("--output", "-o", metavar="FOLDER", help="Folder to create; it must not exist yet. Default: out."),
]
Resume: TypeAlias = Annotated[
    bool, _option("--resume", help="Continue an interrupted run: finished steps are not repeated.")
]
DryRun: TypeAlias = Annotated[
    bool,
    _option(
        "--dry-run", help="Print the configuration and the time, memory and disk that the command needs; write nothing."
    ),
]
Json: TypeAlias = Annotated[bool, _option("--json", help="Print the result as one JSON document on stdout.")]
Log: TypeAlias = Annotated[
    LogLevel,
    _option("--log-level", help="Messages on stderr: debug adds tracebacks, error hides progress. Default: warning."),
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
