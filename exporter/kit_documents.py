"""The documents of device kits in full: ``kit.json``, which an export writes, and ``result.json``, which kits write.

The JSON schemas are made from these types. Kits read ``kit.json`` with readers of their own, in three languages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from vggt_edge.calibration.documents import Count, Finite, Sha256
from vggt_edge.calibration.scenes.framing import FIT, PixelCenters, Preprocess
from vggt_edge.exporter.device_report import (
    Angles,
    BlockPrecision,
    DeviceNames,
    DeviceReport,
    Distance,
    Engine,
    OutputResult,
)

Decibels: TypeAlias = Annotated[float, Field(gt=0, le=200, allow_inf_nan=False)]
Degrees: TypeAlias = Annotated[float, Field(gt=0, le=180, allow_inf_nan=False)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]


# --- kit.json ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OutputShape:
    """An output of the model. shape: with the batch of 1."""

    name: str
    shape: tuple[Count, ...]


@dataclass(frozen=True)
class Block:
    """A block of the model and the scheme that the plan gives it."""

    block: str
    scheme: str


@dataclass(frozen=True)
class Tolerances:
    """Limits against the simulation, in dB and degrees; None judges nothing."""

    backend_sqnr_db_min: Decibels | None
    pose_degrees_max: Degrees | None


@dataclass(frozen=True)
class TensorRTBlock(Block):
    """A block of a Jetson kit.

    - computed: what its linears multiply in; the scheme, except where an FP16 block is an FP32 island.
    - nodes: ONNX names of its linears.
    """

    computed: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class TensorRTTolerances:
    """Limits of a Jetson kit, in dB and degrees; None judges nothing."""

    sqnr_db_min: Decibels | None
    pose_degrees_max: Degrees | None


@dataclass(frozen=True)
class WeightBytes:
    """Size of the weights as the plan packs them, and in FP16."""

    packed: Count
    fp16: Count


@dataclass(frozen=True)
class TensorRTFused:
    """The graph of a Jetson kit that takes camera frames (``--fuse-io``).

    - model, golden: file names of the graph and of what is replayed with it.
    - frames: format and size, such as ``rgb:1920x1080``. model_input: (height, width) that they are resized to.
    - inputs: of uint8. outputs: of float32.
    - camera_from_input: 3 x 3, from pixels of the model's input to those of the camera.
    - content: left, top, right and bottom of the part of the model's input that shows the frame, right and bottom
      exclusive; around it the input is white. Missing in older bundles, where all of it does.
    """

    model: str
    golden: str
    frames: str
    model_input: tuple[Count, Count]
    inputs: tuple[OutputShape, ...]
    outputs: tuple[OutputShape, ...]
    camera_from_input: tuple[tuple[Finite, Finite, Finite], ...]
    content: tuple[Count, Count, Count, Count] | None = None


@dataclass(frozen=True)
class Kit:
    """The keys of every ``kit.json``.

    - plan_digest: sha256 of the precision plan.
    - preprocess: how a picture becomes the input; ``fit`` where it is missing.
    - pixel_centers: where the centre of the first pixel lies in a point cloud; ``half`` where it is missing.
    """

    schema_version: Literal[1]
    target: str
    plan_digest: Sha256
    outputs: tuple[OutputShape, ...]
    preprocess: Preprocess = field(default=FIT, kw_only=True)
    pixel_centers: PixelCenters = field(default="half", kw_only=True)


@dataclass(frozen=True)
class AppKit(Kit):
    """The part that the kits for apps share."""

    blocks: tuple[Block, ...]
    tolerances: Tolerances


@dataclass(frozen=True)
class TensorRTKit(Kit):
    """``kit.json`` of a Jetson bundle.

    - model: file name of the graph.
    - sha256: by file name.
    - requires: version ranges by the name of what the device needs.
    - fused: the graph for camera frames; missing without one.
    """

    model: str
    sha256: Mapping[str, Sha256]
    requires: Mapping[str, str]
    blocks: tuple[TensorRTBlock, ...]
    weight_bytes: WeightBytes
    tolerances: TensorRTTolerances
    fused: TensorRTFused | None = None


@dataclass(frozen=True)
class CoreMLModel:
    """The Core ML package of an iOS kit.

    - sha256: over the digests of all files; files: sha256 by path inside the package.
    - compute_units: processors that Core ML may use.
    - minimum_os: lowest version by system, such as 17 of ``ios``.
    """

    package: str
    sha256: Sha256
    files: Mapping[str, Sha256]
    compute_units: str
    minimum_os: Mapping[str, Count]


@dataclass(frozen=True)
class InputSize:
    """The size of an app's input. Sides in pixels."""

    frames: Count
    height: Count
    width: Count


@dataclass(frozen=True)
class CoreMLInput(InputSize):
    """The input of an iOS kit. kind: frames as a tensor, or as images. Sides in pixels."""

    kind: Literal["tensor", "image"]


@dataclass(frozen=True)
class Golden:
    """The golden tensors: file name and sha256."""

    file: str
    sha256: Sha256


@dataclass(frozen=True)
class CoreMLKit(AppKit):
    """``kit.json`` of an iOS bundle. golden: None where the export was not validated."""

    model: CoreMLModel
    input: CoreMLInput
    golden: Golden | None


@dataclass(frozen=True)
class PlannedMemory:
    """planned_bytes: memory that ExecuTorch plans ahead."""

    planned_bytes: Count


@dataclass(frozen=True)
class ExecuTorchModel:
    """The program of an Android kit. weights: file name; None where the program holds them."""

    program: str
    sha256: Sha256
    weights: str | None
    weights_sha256: Sha256 | None
    executorch_version: str
    delegate: str
    memory: PlannedMemory


@dataclass(frozen=True)
class ExecuTorchInput(InputSize):
    """The input of an Android kit. Sides in pixels."""

    name: str
    order: Literal["NCHW"]
    layout: Literal["contiguous"]
    dtype: Literal["float32"]


@dataclass(frozen=True)
class ExecuTorchGolden(Golden):
    """The golden tensors of an Android kit. input_file: the images once more, raw, for executor_runner."""

    input_file: str
    input_sha256: Sha256


@dataclass(frozen=True)
class ExecuTorchKit(AppKit):
    """``kit.json`` of an Android bundle. golden: None where the export was not validated."""

    model: ExecuTorchModel
    input: ExecuTorchInput
    golden: ExecuTorchGolden | None


# --- result.json ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FullDistance(Distance):
    """The distance of an output from its reference: the largest and the 99th percentile, absolute and relative.

    relative_l2: in the kits for Jetson and ``compare.py``.
    """

    p99_abs: Finite
    max_rel: Finite
    p99_rel: Finite
    relative_l2: Finite | None = None


@dataclass(frozen=True)
class FullOutput(OutputResult):
    """The verdict on an output. pose_degrees_max: limit of both angles; ``pose_enc`` alone has it."""

    against_simulation: FullDistance | None
    against_fp32: FullDistance | None = None
    pose: Angles | None = None
    pose_degrees_max: Degrees | None = None


@dataclass(frozen=True)
class FullDevice(DeviceNames):
    """The device, with what single kits add.

    - compute_capability: of the GPU; Jetson.
    - abi, is_emulator, thermal_status: Android.
    - is_simulator: iOS.
    """

    compute_capability: str | None = None
    abi: str | None = None
    is_emulator: bool | None = None
    thermal_status: str | None = None
    is_simulator: bool | None = None


@dataclass(frozen=True)
class FullEngine(Engine):
    """A TensorRT engine. cuda_graph: whether predictions were launched as one; the kit in C++ tells."""

    cuda_graph: bool | None = None


@dataclass(frozen=True)
class FullPrecision(BlockPrecision):
    """The precision of a block. lost: nodes that compute in another; not_seen: how many nodes no layer names."""

    lost: tuple[str, ...] = ()
    not_seen: Count = 0


@dataclass(frozen=True)
class Latency:
    """The measured predictions under their older names."""

    median_ms: Finite
    p90_ms: Finite
    p99_ms: Finite
    runs: Count


@dataclass(frozen=True)
class Placement:
    """The placement that Core ML plans: operations and share of the cost by processor, and by block."""

    operations: Mapping[str, Count]
    cost: Mapping[str, Share]
    blocks: Mapping[str, Mapping[str, Count]]


@dataclass(frozen=True)
class KitResult(DeviceReport):
    """``result.json`` with every key that a kit writes (docs/how-to/kit-result.md says what each means)."""

    outputs: tuple[FullOutput, ...]
    device: FullDevice
    engine: FullEngine | None = None
    precision: tuple[FullPrecision, ...] = ()
    accuracy: tuple[FullOutput, ...] = ()
    low_power_mode: bool | None = None
    threads: Count | None = None
    latency: Latency | None = None
    load_s: Finite | None = None
    peak_memory_bytes: Count | None = None
    compute_units: str | None = None
    placement: Placement | None = None
    placement_error: str | None = None
