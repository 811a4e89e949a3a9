"""The base class of every backend, of every session that runs an artifact, and the frozen types that pass through."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, TypeAlias, final

import numpy as np
import numpy.typing as npt

from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.quantization.form import LayerShape
from vggt_edge.calibration.scenes.framing import FIT, PixelCenters, Preprocess
from vggt_edge.calibration.scheme import Numbers
from vggt_edge.devices.errors import InputError
from vggt_edge.devices.profile import DeviceProfile

if TYPE_CHECKING:  # listing the backends must not cost the import of torch
    import torch

    from vggt_edge.calibration.metrics.output import Output

Arrays: TypeAlias = Mapping[str, npt.NDArray[np.float32]]
Frames: TypeAlias = npt.NDArray[np.uint8]
Figures: TypeAlias = Mapping[str, float | int | str]


@dataclass(frozen=True)
class Availability:
    """Whether a backend can work on this machine; if not, why, and what would change that."""

    ok: bool
    reason: str = ""
    remedy: str = ""


TOP = "model"
"""In the names of nodes, the scope of what the model's own forward does, outside any submodule."""


@dataclass(frozen=True)
class AnnotatedGraph:
    """The one QDQ-annotated graph that every backend lowers.

    program: makes the annotated ExportedProgram of the whole model (quantized_decomposed and torchao ops), which holds
    all its quantized weights: call it once, and only where the ONNX form will not do.
    onnx_path: its QDQ ONNX form, opset 23; weights in ``<name>.data`` beside it. Compute type FP32.
    blocks: names of the blocks; ONNX nodes are named ``<block>/<module path in block>/<op type>[_n]``.
    fp32_blocks: blocks and other module names which the headroom scan wants computed in FP32 on an FP16 device.
    outputs: what the model declares of each output; empty where only a graph is known. about: the model, in a line.
    shipped_path: the ONNX form that the bundle holds, in the opset that was asked for; ``onnx_path`` if None.
    preprocess: how a picture becomes the input. pixel_centers: where apps shall take the centre of the first pixel.
    """

    program: Callable[[], torch.export.ExportedProgram]
    onnx_path: Path
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    blocks: tuple[str, ...]
    fp32_blocks: tuple[str, ...] = ()
    outputs: tuple[Output, ...] = ()
    about: str = ""
    shipped_path: Path | None = None
    preprocess: Preprocess = FIT
    pixel_centers: PixelCenters = "half"


@dataclass(frozen=True)
class Options:
    """What one lowering may be asked for beside the plan; a backend lists in ``options`` those that it knows.

    image_input: take every frame as an image of 8 bits per channel. strict_ane: refuse what the Neural Engine would
    hand to another processor. external_weights: in a file beside the program. strict: refuse a program that multiplies
    in another type than the plan says. fuse_io: the camera (``CameraFrames.text``) whose frames a second program takes.
    """

    image_input: bool = False
    strict_ane: bool = False
    external_weights: bool = False
    strict: bool = False
    fuse_io: str | None = None

    @property
    def asked(self) -> tuple[str, ...]:
        """The names of those that are not at their default."""
        return tuple(one.name for one in fields(self) if getattr(self, one.name) != one.default)


DEFAULT_OPTIONS = Options()


@dataclass(frozen=True)
class Realised:
    """What one block asked for and what the artifact holds. ``how`` names the evidence."""

    block: str
    asked: str
    realised: str
    how: str


@dataclass(frozen=True)
class Computed:
    """Precision in which the compiled program multiplies inside a block.

    block: empty for what lies outside the blocks. stored: scheme of the block in the artifact. computed: products by
    the type of their operands, ``int8 x 4, fp16 x 2``. status: ``passed``; ``failed`` where a product has another type
    than the artifact says or its packed weights are widened in memory; ``unknown`` where the program does not say.
    """

    block: str
    asked: str
    stored: str
    computed: str
    status: str


@dataclass(frozen=True)
class Check:
    """A check that a backend made while lowering: ``passed``, ``failed`` or ``not_run``, with figures.

    figures: the same on every repetition. measured: seconds, memory and the like, which are not; neither they nor
    anything made of them may stand in ``detail``.
    """

    name: str
    status: str
    detail: str
    figures: Figures
    measured: Figures = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """One operation that breaks one rule of an audit; ``main`` stands for the program.

    block: empty where the name tells none. source: of the rule. severity: ``error``, ``warning`` or ``note``.
    """

    rule: str
    op: str
    op_type: str
    block: str
    what: str
    remedy: str
    source: str
    severity: str

    def __str__(self) -> str:
        return f"{self.op}: {self.what} ({self.rule}; {self.remedy})"


@dataclass(frozen=True)
class Lowered:
    """Result of a lowering.

    files: relative to the output folder. realised: precision per block as the artifact stores it. checks: made on the
    way. findings: of audits. computed: precision per block as the compiled program multiplies; empty without a program.
    """

    backend: str
    files: tuple[str, ...]
    realised: tuple[Realised, ...]
    checks: tuple[Check, ...] = ()
    findings: tuple[Finding, ...] = ()
    computed: tuple[Computed, ...] = ()


class Session(ABC):
    """A loaded artifact, ready to run. ``run`` checks its inputs before native code sees them."""

    @property
    @abstractmethod
    def where(self) -> str:
        """The artifact's path, for error messages."""

    @property
    @abstractmethod
    def input_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of each input by name; every input is float32."""

    @abstractmethod
    def _run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        """Run once on inputs that were checked."""

    @final
    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        """Run the artifact once: float32 outputs by name.

        ``InputError`` for wrong input names, shapes or types, and for NaN or Inf. ``ToolchainError`` for a crash of the
        runtime. ``ResourceError`` where time or memory did not suffice.
        """
        self.check(inputs)
        return self._run(inputs)

    def check(self, inputs: Arrays) -> None:
        """``InputError`` unless the inputs have exactly the declared names, shapes and types, and are finite."""
        shapes = self.input_shapes
        if set(inputs) != set(shapes):
            given, known = ", ".join(sorted(inputs)) or "none", ", ".join(sorted(shapes))
            raise InputError(f"wrong inputs: {given}", where=self.where, expected=f"exactly: {known}")
        for name, shape in shapes.items():
            array = inputs[name]
            if array.dtype != np.float32 or array.shape != shape:
                what = f"input {name} is {array.dtype} {array.shape}"
                raise InputError(what, where=self.where, expected=f"{name}: float32 {shape}")
            if not bool(np.isfinite(array).all()):
                raise InputError(f"input {name} holds NaN or Inf", where=self.where, expected="finite numbers")


@dataclass(frozen=True)
class Runtime:
    """What computes the figures of a report.

    name: as in ``toolchain.requires`` of device profiles, where devices have it too.
    version: the installed one.
    options: of its build or session, as far as they change figures.
    differs: what is different on a device, in words; empty where nothing is known to be.
    """

    name: str
    version: str
    options: str = ""
    differs: str = ""


@dataclass(frozen=True)
class Executor:
    """Something on this machine that runs the artifact of a backend.

    subject: its name in ``validation.json``, one of the backend's ``subjects``.
    how: what computes, for readers.
    open: opens the folder that ``lower`` filled.
    runtime: which runtime that is.
    on_request: the name of an emulation that takes long, so it runs only where that is asked for; empty for what always
    runs.
    feature: of the processor that it emulates; empty for any.
    availability: of an emulation.
    """

    subject: str
    how: str
    open: Callable[[Path], Session]
    runtime: Runtime
    on_request: str = ""
    feature: str = ""
    availability: Callable[[], Availability] = lambda: Availability(True)

    def fits(self, profile: DeviceProfile) -> bool:
        """Whether the device has that processor."""
        return self.feature in ("", *profile.features)


@dataclass(frozen=True)
class Rates:
    """What lowering costs, measured on two shared x86-64 cores; an estimate needs no more than the order of magnitude.

    seconds: for a graph without weights.
    bytes_per_s: stored weights that are lowered in a second.
    copies: of the stored weights, held in memory at once.
    memory_bytes: held besides, whatever the size of the weights.
    forwards: forward passes of the model, made as a check.
    scene_seconds: to run one validation scene, beyond the arithmetic of a forward.

    The defaults are the slowest that was measured of any backend.
    """

    seconds: float = 80.0
    bytes_per_s: float = 0.008e9
    copies: int = 1
    memory_bytes: int = 0
    forwards: float = 0.0
    scene_seconds: float = 4.0


@dataclass(frozen=True)
class CameraRun:
    """The outputs of a program for the frames of a camera, and the ones it has to agree with.

    subject, against: names in reports of the program, and of the one without the fused stages.
    fused: outputs of the program, and the ``images`` that it hands to the model.
    apart: outputs of the other program, between our own pre- and postprocessing.
    staged: what our own code makes of the frames (``images``), and of the poses and depth that the program gives.
    """

    subject: str
    against: str
    fused: Arrays
    apart: Arrays
    staged: Arrays


class Backend(ABC):
    """One per file or folder of ``runtimes``, which declares all that the exporter knows of it.

    SDK imports stay inside the methods. Attributes of the class:

    - name: that of the file or folder.
    - title: for people.
    - distributions: the packages whose versions decide what ``lower`` and the executors do. Manifest and step cache
      record them. Packages that are not installed are left out.
    - supported: names of the schemes that an artifact can hold.
    - options: names of the fields of ``Options`` that ``lower`` understands; the exporter refuses others.
    - rates: what lowering costs.
    - writes_form: whether ``lower`` stores the weights once more, in a form of its own.
    - subjects: titles of what a validation report may name, by subject; the backend itself is one of them.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    distributions: ClassVar[tuple[str, ...]]
    supported: ClassVar[tuple[str, ...]]
    options: ClassVar[frozenset[str]] = frozenset()
    rates: ClassVar[Rates] = Rates()
    writes_form: ClassVar[bool] = True
    subjects: ClassVar[Mapping[str, str]] = MappingProxyType({})

    @property
    def device_subject(self) -> str:
        """The name of the device itself in reports. No executor on this machine stands for the device."""
        return f"{self.name}-on-device"

    @abstractmethod
    def availability(self) -> Availability:
        """Whether this machine can lower. Imports no SDK and never raises."""

    def schemes(self, profile: DeviceProfile) -> tuple[str, ...]:
        """What both the profile lists and the backend supports, in the profile's order, those on request last."""
        return tuple(name for name in profile.runnable if name in self.supported)

    def check_profile(self, profile: DeviceProfile) -> None:  # noqa: B027  most take every profile
        """``LoweringError`` where the device's software reads none of the backend's artifacts."""

    def keeps(self, shape: LayerShape) -> bool:
        """Whether the runtime multiplies such a layer in floating point whatever its scheme.

        An export stores it so, because narrower numbers would cost accuracy and gain no time.
        """
        return False

    def widens(self, shape: LayerShape, calls: int, weight: Numbers) -> bool:
        """Whether the runtime writes packed weights of such a layer to memory in 16 bits before it multiplies.

        Inputs are not quantized. calls: how often a forward runs the layer. weight: its packed numbers.
        """
        return False

    def check_options(self, options: Options) -> None:  # noqa: B027  most options need nothing
        """``ToolchainError`` where this machine lacks what an option needs."""

    def why_not(self, scheme: str, profile: DeviceProfile) -> str:
        """The reason why a device does not run a scheme; empty where no special one is known."""
        return ""

    @abstractmethod
    def lower(
        self,
        graph: AnnotatedGraph,
        plan: PrecisionPlan,
        profile: DeviceProfile,
        out_dir: Path,
        options: Options = DEFAULT_OPTIONS,
    ) -> Lowered:
        """Write ``<out_dir>/<name>/`` and say what precision each block has there, as read back from the artifact."""

    def executors(self) -> tuple[Executor, ...]:
        """What can run its artifacts here, beside ONNX Runtime, which runs the graph that they were made from."""
        return ()

    @abstractmethod
    def open(self, bundle: Path) -> Session:
        """The artifact of a bundle; ``ToolchainError`` where this machine cannot run it."""

    def write_golden(  # noqa: B027  a kit is optional
        self, bundle: Path, inputs: Arrays, simulation: Arrays, fp32: Arrays
    ) -> None:
        """Put what the device kit replays and compares with beside it; a backend without a kit writes nothing."""

    def run_camera(self, bundle: Path, frames: Frames, declared: Sequence[Output]) -> CameraRun:
        """Run the program of ``fuse_io`` on what a camera sees, and what it has to agree with.

        frames: (S, height, width, 3) in RGB. declared: what the model says of its outputs.
        """
        raise NotImplementedError(f"{self.name} knows no fuse_io")

    def write_camera_golden(  # noqa: B027  for fuse_io only
        self, bundle: Path, frames: Frames, simulation: Arrays, declared: Sequence[Output]
    ) -> None:
        """Write golden tensors for the program of ``fuse_io``. simulation: its outputs for the frames."""

    def on_device(self, profile: DeviceProfile) -> str:
        """Why the device's own row in a report is ``not_run``, and how to get it; empty where there is no such row."""
        return f"runs on the device only: use the kit in {self.name}/ on the {profile.title}"
