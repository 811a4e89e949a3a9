"""Tiny MIL programs, written by coremltools, saved as packages and run from there."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vggt_edge.runtimes.coreml.interpreter import MilSession
from vggt_edge.runtimes.coreml.sdk import load_coremltools, quiet

Array = np.ndarray
Inputs = Mapping[str, tuple[tuple[int, ...], str]]


@pytest.fixture(scope="session")
def ct() -> Iterator[Any]:
    """coremltools itself. Each conversion collects garbage: 0.2 s over all of torch, next to nothing once frozen."""
    module = load_coremltools()
    gc.collect()
    gc.freeze()
    yield module
    gc.unfreeze()


@pytest.fixture(scope="session")
def save(ct: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Saves ``body(mb, **features)`` as a package. features: name to (shape, dtype). Nothing is optimised."""
    mil = load_coremltools("coremltools.converters.mil.mil")
    numbers = count()
    targets = {16: ct.target.iOS16, 17: ct.target.iOS17, 18: ct.target.iOS18}

    def run(body: Callable[..., Any], features: Inputs, ios: int = 18, **options: Any) -> Path:
        path = tmp_path_factory.mktemp("packages") / f"p{next(numbers)}.mlpackage"
        with quiet():
            holders = {
                name: mil.Builder.placeholder(shape=shape, dtype=mil.types.string_to_builtin(dtype))
                for name, (shape, dtype) in features.items()
            }
            with mil.Function(holders, opset_version=targets[ios]) as function:
                outputs = body(mil.Builder, **function.inputs)
                function.set_outputs(list(outputs) if isinstance(outputs, (tuple, list)) else [outputs])
            program = mil.Program()
            program.add_function("main", function)
            model = ct.convert(
                program,
                convert_to="mlprogram",
                minimum_deployment_target=targets[ios],
                compute_precision=ct.precision.FLOAT32,
                skip_model_load=True,
                pass_pipeline=ct.PassPipeline.EMPTY,
                **options,
            )
            model.save(str(path))
        return path

    return run


@pytest.fixture(scope="session")
def run_saved() -> Callable[..., list[Array]]:
    """Runs a saved package, in FP32 unless said otherwise; the outputs in order."""

    def run(path: Path, inputs: Mapping[str, Array], precision: Any = "fp32") -> list[Array]:
        session = MilSession(path, precision)
        outputs = session.run(inputs)
        return [outputs[name] for name in session.output_names]

    return run


@pytest.fixture(scope="session")
def run_op(save: Callable[..., Path]) -> Callable[..., Any]:
    """Runs one operation in FP32. Arrays are inputs of the program, everything else becomes a constant.

    Returns the output, or a list of several.
    """

    def run(op: str, tensors: Mapping[str, Array], ios: int = 18, **parameters: Any) -> Any:
        # Core ML has no boolean inputs, so they come in as integers.
        dtypes = {"f": "fp32", "i": "int32", "b": "int32"}
        inputs = {name: (array.shape, dtypes[array.dtype.kind]) for name, array in tensors.items()}

        def body(mb: Any, **values: Any) -> Any:
            for name, array in tensors.items():
                if array.dtype == np.bool_:
                    values[name] = mb.cast(x=values[name], dtype="bool")
            results = getattr(mb, op)(**values, **parameters)
            several = results if isinstance(results, (tuple, list)) else [results]
            # Nor has it boolean outputs.
            return [mb.cast(x=value, dtype="int32") if value.dtype.__name__ == "bool" else value for value in several]

        session = MilSession(save(body, inputs, ios), "fp32")
        fed = {name: array.astype(np.int32) if array.dtype == np.bool_ else array for name, array in tensors.items()}
        outputs = session.run(fed)
        values = [outputs[name] for name in session.output_names]
        return values[0] if len(values) == 1 else values

    return run
