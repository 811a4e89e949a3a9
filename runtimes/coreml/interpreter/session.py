"""Runs a saved Core ML package with torch kernels.

``fp32``: every float is float32, casts between floats change nothing, weights are what the file stores, widened. This
shows whether the program computes what the model computes.

``fp16``: an operation takes FP16 arguments, computes in FP32 and rounds what it declares as fp16 to FP16 (to nearest,
halves to even; from 65520 on it becomes inf, and the value is listed in ``overflows``). Operations declared fp32 stay
fp32. On the Neural Engine and in a GPU's FP16 programs values are stored as FP16 between operations, so that this
rounding is the part of their error which all of them share. Where a device differs:
- how wide it computes inside an operation (sums of products, exp of softmax, moments of layer_norm) is not documented:
  narrower, it drifts further and may overflow inside where nothing shows here;
- operations that it fuses hand their values on unrounded;
- sums run in another order, and numbers below 6.1e-5, which stay here, may be flushed to zero;
- the CPU computes operations declared fp32, and may compute those declared fp16, in FP32.
So agreement here does not prove the device's last bits; disagreement, or inf, here is a fault of the program.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vggt_edge.devices.errors import InputError, LoweringError, ResourceError, UnknownNameError
from vggt_edge.runtimes.coreml.interpreter import (  # noqa: F401  each registers its kernels
    compressed,
    elementwise,
    gathering,
    neural,
    quantizing,
    reducing,
    resizing,
    shapes,
)
from vggt_edge.runtimes.coreml.interpreter.call import KERNELS, Call, Value
from vggt_edge.runtimes.coreml.interpreter.numbers import Precision, held_type, settle, to_torch
from vggt_edge.runtimes.coreml.mil import Constant, Feature, MilProgram, Operation, TensorType
from vggt_edge.runtimes.coreml.program import load_program

__all__ = ["MilSession", "Precision"]

# Mapped weights are given back whenever this much of them was read.
_RELEASE_BYTES = 1 << 25
# Compressed constants made of compressed constants: coremltools nests two.
_MAX_NESTING = 8
_RUNTIME_ERRORS = (RuntimeError, IndexError, ValueError, TypeError, OverflowError)


class MilSession:
    """One package, ready to run. Weights stay in the package: each operation restores its own and drops them.

    ``InputError`` for a damaged package. ``LoweringError`` when an operation has no kernel here: the package may well
    be sound, and it is the interpreter that lacks something.
    """

    def __init__(self, package: Path, precision: Precision = "fp16") -> None:
        if precision not in ("fp16", "fp32"):
            raise UnknownNameError("precision", str(precision), ("fp16", "fp32"))
        self.program: MilProgram = load_program(package)
        self.precision: Precision = precision
        self._where = str(package)
        self._overflows: tuple[str, ...] = ()
        self._constants = _constants(self.program)
        self._last_readers = _last_readers(self.program)
        _check_kernels(self.program)

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each input by name."""
        return {name: value.shape for name, value in self.program.inputs.items()}

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return self.program.outputs

    @property
    def overflows(self) -> tuple[str, ...]:
        """Values of the last run whose finite numbers became infinite in FP16, in order. Empty in ``fp32``."""
        return self._overflows

    def run(
        self, inputs: Mapping[str, npt.NDArray[Any]], also: Iterable[str] = ()
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Run once: the outputs, then the values named in ``also``, all as float32 (integers and booleans too).

        Inputs are float32 (int32 where the program wants integers), NaN and inf allowed. An image input is a float32
        (1, 3, height, width) of RGB from 0 to 255 whatever layout the package declares, or (1, 1, height, width) of
        grey; it is not rounded to the whole numbers that a pixel buffer holds. ``InputError`` for a wrong set of
        names, a wrong shape or type; ``UnknownNameError`` for a value that the program does not have.
        """
        wanted = tuple(dict.fromkeys((*self.program.outputs, *also)))
        known = self.program.value_types()
        for name in wanted:
            if name not in known or known[name].dtype == "string":
                raise UnknownNameError("value", name, (*self.program.inputs, *self.program.outputs), where=self._where)
        run = _Run(self.program, self.precision, self._constants, self._where)
        with torch.inference_mode():
            self._feed(run, inputs)
            self._execute(run, frozenset(wanted))
            self._overflows = tuple(run.overflows)
            return {name: _to_float32(run.resolve(name)) for name in wanted}

    def _feed(self, run: _Run, inputs: Mapping[str, npt.NDArray[Any]]) -> None:
        if set(inputs) != set(self.program.inputs):
            raise InputError(
                f"wrong inputs: {', '.join(sorted(inputs)) or 'none'}",
                where=self._where,
                expected=f"exactly: {', '.join(sorted(self.program.inputs))}",
            )
        features = {feature.name: feature for feature in self.program.description.inputs}
        for name, declared in self.program.inputs.items():
            value = _input(features[name], declared, inputs[name], self._where)
            run.values[name] = run.settled(name, value, declared, self._where)

    def _execute(self, run: _Run, wanted: frozenset[str]) -> None:
        for index, operation in enumerate(self.program.operations):
            if operation.outputs and operation.outputs[0].name in self._constants:
                continue
            run.values.update(run.compute(operation))
            for name in {*operation.reads(), *(output.name for output in operation.outputs)} - wanted:
                if self._last_readers.get(name, index) == index:
                    run.values.pop(name, None)


class _Run:
    """The living values of one run."""

    def __init__(
        self, program: MilProgram, precision: Precision, constants: Mapping[str, Operation], where: str
    ) -> None:
        self._program = program
        self._precision: Precision = precision
        self._constants = constants
        self._where = where
        self._mapped = 0
        self.values: dict[str, Value] = {}
        self.overflows: list[str] = []

    def compute(self, operation: Operation) -> dict[str, torch.Tensor]:
        """Its outputs by name."""
        restored: dict[str, Value] = {}
        results = self._call(operation, restored, 0)
        self._release()
        return results

    def resolve(self, name: str) -> Value:
        return self._argument(name, {}, 0)

    def settled(self, name: str, value: torch.Tensor, declared: TensorType, where: str) -> torch.Tensor:
        """The value as it is stored; notes an overflow. ``InputError`` where it is not what the program declares."""
        stored = settle(value, declared, self._precision)
        if stored is None:
            raise InputError(
                f"{name} came out as {value.dtype} {tuple(value.shape)}",
                where=where,
                expected=f"{declared}, as the program declares",
                remedy="convert the model again",
            )
        if stored is not value and declared.dtype == "fp16" and _overflowed(stored, value):
            self.overflows.append(name)
        return stored

    def _call(self, operation: Operation, restored: dict[str, Value], depth: int) -> dict[str, torch.Tensor]:
        arguments = {
            key: tuple(self._argument(argument, restored, depth) for argument in values)
            for key, values in operation.inputs.items()
        }
        arguments |= {key: (self._load(constant),) for key, constant in operation.attributes.items()}
        call = Call(operation, arguments, self._where)
        results = _run_kernel(call)
        if len(results) != len(operation.outputs):
            raise call.wrong(f"{len(operation.outputs)} outputs declared", str(len(results)))
        return {
            output.name: self.settled(output.name, value, output.type, self._where)
            for output, value in zip(operation.outputs, results, strict=True)
        }

    def _argument(self, argument: str | Constant, restored: dict[str, Value], depth: int) -> Value:
        if isinstance(argument, Constant):
            return self._load(argument)
        if argument not in self._constants:
            return self.values[argument]
        if argument not in restored:
            restored[argument] = self._restore(self._constants[argument], restored, depth + 1)
        return restored[argument]

    def _restore(self, operation: Operation, restored: dict[str, Value], depth: int) -> Value:
        if operation.type == "const":
            return self._load(operation.attributes["val"])
        if depth > _MAX_NESTING:
            raise LoweringError(
                f"{operation.type} {operation.name} is nested too deep",
                where=self._where,
                expected=f"at most {_MAX_NESTING} constants made of constants",
                remedy="store the constant in one step",
            )
        return self._call(operation, restored, depth)[operation.outputs[0].name]

    def _load(self, constant: Constant) -> Value:
        self._mapped += constant.stored_bytes
        array = constant.numpy()
        if constant.type.dtype == "string":
            return str(array.item()) if array.size == 1 else " ".join(array.reshape(-1).tolist())
        return to_torch(array, constant.type)

    def _release(self) -> None:
        if self._mapped > _RELEASE_BYTES:
            self._mapped = 0
            for file in self._program.weights:
                file.release()


def _overflowed(stored: torch.Tensor, value: torch.Tensor) -> bool:
    if stored.numel() == 0 or all(bool(bound.isfinite()) for bound in torch.aminmax(stored)):
        return False
    return bool((stored.isinf() & value.isfinite()).any())


def _run_kernel(call: Call) -> list[torch.Tensor]:
    """The kernel's results, with torch's complaints turned into an error that names the operation."""
    for declared in call.declared:
        if -1 not in declared.shape:
            call.reserve(declared.shape)
    try:
        result = KERNELS[call.operation.type](call)
    except MemoryError as error:
        raise _no_memory(call, error) from error
    except _RUNTIME_ERRORS as error:
        if "allocate memory" in str(error):
            raise _no_memory(call, error) from error
        raise call.wrong(f"cannot be computed: {error}", "arguments that fit the operation") from error
    unknown = sorted(set(call.arguments) - call.used)
    if unknown:
        raise call.lacks(f"the parameter {', '.join(unknown)}", f"{', '.join(sorted(call.used))}")
    return [result] if isinstance(result, torch.Tensor) else list(result)


def _no_memory(call: Call, error: Exception) -> ResourceError:
    return ResourceError(
        f"no memory for {call.operation.type} {call.operation.name}: {error}",
        where=call.where,
        remedy="use a package for fewer or smaller images",
    )


def _constants(program: MilProgram) -> dict[str, Operation]:
    """The operations that are restored whenever they are read, by the name of their output."""
    return {
        operation.outputs[0].name: operation
        for operation in program.operations
        if len(operation.outputs) == 1
        and ((operation.type == "const" and "val" in operation.attributes) or _is_compressed(operation))
    }


def _is_compressed(operation: Operation) -> bool:
    return operation.type.startswith(compressed.PREFIX)


def _last_readers(program: MilProgram) -> dict[str, int]:
    return {name: index for index, operation in enumerate(program.operations) for name in operation.reads()}


def _check_kernels(program: MilProgram) -> None:
    """Every operation has a kernel, or else the first of each type is named."""
    missing: dict[str, str] = {}
    for operation in program.operations:
        if operation.type not in KERNELS and not (operation.type == "const" and "val" in operation.attributes):
            missing.setdefault(operation.type, operation.name)
    if missing:
        listed = ", ".join(f"{kind} (first: {name})" for kind, name in sorted(missing.items()))
        raise LoweringError(
            f"the MIL interpreter lacks operations of the program: {listed}",
            where=str(program.package),
            expected=f"one of: {', '.join(sorted(KERNELS))}",
            remedy="lower the model to these operations, or run the package on a Mac",
        )


def _input(feature: Feature, declared: TensorType, array: npt.NDArray[Any], where: str) -> torch.Tensor:
    wanted = held_type(declared.dtype)
    shape = declared.shape
    fits = len(shape) == array.ndim and all(
        size in (-1, actual) for size, actual in zip(shape, array.shape, strict=True)
    )
    if array.dtype != wanted or not fits:
        raise InputError(
            f"input {feature.name} is {array.dtype} {array.shape}", where=where, expected=f"{wanted} {shape}"
        )
    value = torch.tensor(array)
    return value.flip(1) if feature.layout == "BGR" else value


def _to_float32(value: Value) -> npt.NDArray[np.float32]:
    assert isinstance(value, torch.Tensor), "strings are refused before the run"
    return np.array(value.to(torch.float32).numpy(), dtype=np.float32)
