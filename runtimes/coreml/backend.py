"""Apple devices: an ``.mlpackage`` with everything decided at export, executed here by our interpreter."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from packaging.specifiers import SpecifierSet

from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.scheme import SCHEMES, NumberType
from vggt_edge.devices.errors import LoweringError
from vggt_edge.devices.profile import DeviceProfile
from vggt_edge.runtimes.base import (
    DEFAULT_OPTIONS,
    AnnotatedGraph,
    Arrays,
    Availability,
    Backend,
    Check,
    Executor,
    Lowered,
    Options,
    Rates,
    Runtime,
    Session,
)
from vggt_edge.runtimes.common.audit import load_onnx
from vggt_edge.runtimes.common.kit import kit_outputs
from vggt_edge.runtimes.common.packages import installed
from vggt_edge.runtimes.common.typed import fp32_names, type_graph
from vggt_edge.runtimes.coreml import ane, kit_files
from vggt_edge.runtimes.coreml.audit import audit_program
from vggt_edge.runtimes.coreml.mil import MilProgram
from vggt_edge.runtimes.coreml.program import load_program
from vggt_edge.runtimes.coreml.save import save_package
from vggt_edge.runtimes.coreml.sdk import REMEDY
from vggt_edge.runtimes.coreml.translate import ImageInput, to_mil

if TYPE_CHECKING:  # torch is loaded when a package is run, not when the backends are listed
    from vggt_edge.runtimes.coreml.interpreter import MilSession

FOLDER, PACKAGE = "coreml", "vggt.mlpackage"
IMAGES = "images"
_COMPUTE_UNITS = {"neural_engine": "cpuAndNeuralEngine", "gpu": "cpuAndGPU", "cpu": "cpuOnly", None: "all"}
IMAGES_DESCRIPTION = "frames, RGB in [0, 1], (1, frames, 3, height, width); the first one is the reference"


class CoreML(Backend):
    """The backend; see the module. Lowering and running need no Mac."""

    name = "coreml"
    title = "Core ML"
    distributions = ("coremltools",)
    supported = ("fp32", "fp16", "w8a16", "p6a16", "w4a16", "p4a16", "w8a8")
    options = frozenset({"image_input", "strict_ane"})
    rates = Rates(seconds=0.0, bytes_per_s=0.04e9, scene_seconds=0.0)
    subjects = MappingProxyType(
        {name: title, "coreml-fp16": "Core ML package, FP16", "coreml-fp32": "Core ML package, FP32"}
    )

    def availability(self) -> Availability:
        if not installed("coremltools"):
            return Availability(False, "not installed: coremltools", REMEDY)
        return Availability(True)

    def lower(
        self,
        graph: AnnotatedGraph,
        plan: PrecisionPlan,
        profile: DeviceProfile,
        out_dir: Path,
        options: Options = DEFAULT_OPTIONS,
    ) -> Lowered:
        """Write ``<out_dir>/coreml``: the package, and the iOS kit where the graph takes images.

        ``LoweringError`` for a constant that FP16 cannot hold, an operator without a form in MIL, a layer without its
        precision, or, with ``strict_ane``, an operation that the Neural Engine does not run.
        """
        package = out_dir / FOLDER / PACKAGE
        ios = deployment_target(plan, profile)
        model = load_onnx(graph.onnx_path)
        islands = type_graph(model, fp32_names(graph.fp32_blocks, plan), one_way=True)
        frames = frames_of(model)
        images = _asked_images(frames) if options.image_input else None
        metadata = {kit_files.PLAN_DIGEST_KEY: plan.digest, "vggt_edge.target": profile.name}
        save_package(
            to_mil(model, ios, images), package, ios=ios, metadata=metadata, about=graph.about,
            descriptions=_descriptions(graph, images), images=images,
        )  # fmt: skip
        program = load_program(package)
        realised = audit_program(program, plan)
        findings = ane.audit(program, profile, graph.blocks)
        if options.strict_ane:
            ane.enforce(findings)
        checks = [_package_check(program, ios, len(islands)), ane.as_check(findings, profile)]
        if frames is not None:
            kit_files.write_kit(package.parent, _kit(program, graph, plan, profile, frames, ios))
            checks.append(kit_files.compile_check())
        return Lowered(self.name, _files(out_dir), realised, tuple(checks), findings)

    def executors(self) -> tuple[Executor, ...]:
        """The interpreter in both semantics: FP16 as the device stores it, FP32 to compare with the simulation."""
        how = "the saved package in our MIL interpreter on this CPU"
        differs = "Core ML fuses operations and sums in another order"
        half = Runtime("mil-interpreter", version("vggt-edge"), "FP16 between operations", differs)
        full = Runtime("mil-interpreter", version("vggt-edge"), "FP32", f"{differs}, in FP16")
        return (
            Executor("coreml-fp16", f"{how}, FP16 between operations", open_fp16, half),
            Executor("coreml-fp32", f"{how}, FP32 throughout", open_fp32, full),
        )

    def open(self, bundle: Path) -> PackageSession:
        """The package of a bundle in the interpreter, with FP16 between operations."""
        return open_fp16(bundle)

    def write_golden(self, bundle: Path, inputs: Arrays, simulation: Arrays, fp32: Arrays) -> None:
        kit_files.write_golden(bundle / FOLDER, inputs, simulation, fp32)


def _kit(
    program: MilProgram,
    graph: AnnotatedGraph,
    plan: PrecisionPlan,
    profile: DeviceProfile,
    size: ImageInput,
    ios: int,
) -> kit_files.KitDescription:
    types = program.value_types()
    return kit_files.KitDescription(
        target=profile.name,
        plan_digest=plan.digest,
        package=PACKAGE,
        input_kind=program.description.inputs[0].kind,
        frames=size.frames,
        height=size.height,
        width=size.width,
        outputs=kit_outputs({name: types[name].shape for name in program.outputs}, graph.outputs),
        compute_units=_COMPUTE_UNITS[profile.compute_units],
        minimum_ios=ios,
        blocks=tuple(kit_files.KitBlock(one.block, one.scheme) for one in plan.assignments),
        backend_sqnr_db_min=profile.tolerances.backend_sqnr_db_min,
        pose_degrees_max=profile.tolerances.backend_pose_degrees_max,
        preprocess=graph.preprocess,
        pixel_centers=graph.pixel_centers,
    )


def deployment_target(plan: PrecisionPlan, profile: DeviceProfile) -> int:
    """17 where the profile allows it and every weight is 8 bits per channel or wider; else 18.

    ``LoweringError`` for a profile of older systems only. visionOS counts 16 less than iOS.
    """
    requires = profile.toolchain.requires
    allowed = SpecifierSet(requires.get("ios") or requires.get("ipados") or requires.get("visionos", ">=2.0"))
    offset = 0 if {"ios", "ipados"} & set(requires) else 16
    needed = [SCHEMES[assignment.scheme] for assignment in plan.assignments] + [SCHEMES[plan.rest_scheme]]
    least = 18 if any(scheme.weight.type is NumberType.PALETTE or scheme.weight.bits < 8 for scheme in needed) else 17
    for ios in range(least, 19):
        if allowed.contains(f"{ios - offset}.0"):
            return ios
    raise LoweringError(
        f"{profile.name} allows {allowed} only",
        where=profile.name,
        expected=f"iOS {least} or 18 within the profile's range",
        remedy='set toolchain.requires.ios to ">=18.0"',
    )


def frames_of(model: ir.Model) -> ImageInput | None:
    """Frames and size of the graph's one input, ``images`` (1, S, 3, H, W); None for any other graph."""
    first, *others = model.graph.inputs
    sides = () if first.shape is None else tuple(int(side) for side in first.shape.numpy())
    if others or first.name != IMAGES or len(sides) != 5 or sides[2] != 3:
        return None
    return ImageInput(frames=sides[1], height=sides[3], width=sides[4])


def _asked_images(frames: ImageInput | None) -> ImageInput:
    if frames is None:
        raise LoweringError(
            "the graph takes no images", where="Core ML", expected=f"one input {IMAGES} (1, frames, 3, height, width)"
        )
    return frames


def _descriptions(graph: AnnotatedGraph, images: ImageInput | None) -> dict[str, str]:
    """By name of an input or output, what it is."""
    frames = images.names if images is not None else ()
    described = {output.name: output.description for output in graph.outputs}
    return {IMAGES: IMAGES_DESCRIPTION, **described, **{name: f"frame {i}, RGB" for i, name in enumerate(frames)}}


def _package_check(program: MilProgram, ios: int, fp32_nodes: int) -> Check:
    figures: dict[str, float | int | str] = {
        "operations": sum(not operation.type.startswith("const") for operation in program.operations),
        "attention_operations": sum(op.type == "scaled_dot_product_attention" for op in program.operations),
        "fp32_nodes": fp32_nodes,
        "package_bytes": sum(path.stat().st_size for path in program.package.rglob("*") if path.is_file()),
    }
    return Check("Core ML package", "passed", f"saved, read back and audited; iOS {ios}, {program.opset}", figures)


def _files(out_dir: Path) -> tuple[str, ...]:
    folder = out_dir / FOLDER
    return tuple(sorted(path.relative_to(out_dir).as_posix() for path in folder.rglob("*") if path.is_file()))


class PackageSession(Session):
    """A package that takes what the graph takes, whether its own input is a tensor or images.

    Images are rounded to 8 bits per channel, as a pixel buffer would hold them.
    """

    def __init__(self, session: MilSession) -> None:
        self._session = session
        self._takes_images = {feature.kind for feature in session.program.description.inputs} == {"image"}

    @property
    def where(self) -> str:
        return str(self._session.program.package)

    @property
    def input_shapes(self) -> Mapping[str, tuple[int, ...]]:
        shapes = self._session.input_shapes
        if not self._takes_images:
            return shapes
        _, channels, height, width = next(iter(shapes.values()))
        return {IMAGES: (1, len(shapes), channels, height, width)}

    def _run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        """``LoweringError`` where FP16 overflowed."""
        outputs = self._session.run(_frames(inputs[IMAGES]) if self._takes_images else inputs)
        if self._session.overflows:
            raise LoweringError(
                f"{len(self._session.overflows)} values overflow FP16: {', '.join(self._session.overflows[:5])}",
                where=PACKAGE,
                expected="finite numbers: the headroom scan keeps in FP32 what it has seen to be large",
                remedy="calibrate on more scenes, or on some that are like those that are validated on",
            )
        return outputs


def _frames(images: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
    levels = np.round(255 * np.clip(images, 0, 1)).astype(np.float32)
    return {f"image_{index}": levels[:, index] for index in range(levels.shape[1])}


def open_fp16(folder: Path) -> PackageSession:
    """The package of a bundle, executed with results rounded to FP16 as on the device."""
    return _open(folder, "fp16")


def open_fp32(folder: Path) -> PackageSession:
    """The package of a bundle, executed in FP32."""
    return _open(folder, "fp32")


def _open(folder: Path, precision: Literal["fp16", "fp32"]) -> PackageSession:
    from vggt_edge.runtimes.coreml.interpreter import MilSession

    return PackageSession(MilSession(folder / FOLDER / PACKAGE, precision))


BACKEND = CoreML()
