"""The methods of the contest by name. Each makes a quantized copy of a model, for simulation."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

from torch import nn

from vggt_edge.calibration.observation.collect import layers_of, model_digest
from vggt_edge.calibration.scenes.scene import Scene
from vggt_edge.calibration.scheme import Scheme
from vggt_edge.devices.errors import UnknownNameError, VggtEdgeError
from vggt_edge.exporter.models.architecture import Model

PEERS = ("rtn", "smoothquant", "awq", "gptq", "quarot", "quantvggt", "qvggt")
OURS = "ours"
METHODS = (*PEERS, OURS)
# Imported by name and only when asked for: a contest of two methods has no use for the others' dependencies.
_PEERS_PACKAGE, _OURS_MODULE = "vggt_edge.exporter.contest.peers", "vggt_edge.calibration.tuning.method"

Quantize = Callable[[Model, Sequence[Scene], Scheme, int], nn.Module]


@dataclass(frozen=True)
class Method:
    """module: where it is written. settings: of ours, what its results depend on besides scheme, scenes and seed."""

    name: str
    module: str
    quantize: Quantize
    settings: str = ""


def is_ours(name: str) -> bool:
    """Ours, whole or without one of its parts."""
    return name == OURS or name.startswith(f"{OURS}-")


def load_methods(names: Sequence[str], effort: str) -> tuple[Method, ...]:
    """The methods called so, in that order; ``UnknownNameError`` lists the known ones. effort: of ours."""
    return tuple(_load(name, effort) for name in names)


def ablation_names() -> tuple[str, ...]:
    """Ours, and ours without each of its parts."""
    return (OURS, *_ablations())


def _load(name: str, effort: str) -> Method:
    if name in PEERS:
        module = _module(f"{_PEERS_PACKAGE}.{name}", name)
        return Method(name, module.__name__, module.quantize)
    if name == OURS:
        return _ours(name, _module(_OURS_MODULE, name).quantize, effort)
    if not is_ours(name) or name not in _ablations():
        raise UnknownNameError("method", name, (*METHODS, f"{OURS}-<part> of --ablation"))
    return _ours(name, _ablations()[name], effort)


def _ours(name: str, quantize: Callable[..., nn.Module], effort: str) -> Method:
    def with_effort(model: Model, scenes: Sequence[Scene], scheme: Scheme, seed: int) -> nn.Module:
        return quantize(model, scenes, scheme, seed, effort)

    return Method(name, _OURS_MODULE, with_effort, effort)


def _ablations() -> Mapping[str, Callable[..., nn.Module]]:
    found: Mapping[str, Callable[..., nn.Module]] = _module(_OURS_MODULE, OURS).ABLATIONS
    return found


def _module(path: str, method: str) -> ModuleType:
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:
            raise
        raise VggtEdgeError(
            f"method {method} is not in this installation",
            where=path,
            expected="every method of the contest",
            remedy="leave it out with --methods, or install vggt-edge anew",
        ) from error


def check_rules(method: Method, quantized: Model, model: Model, digest: str) -> None:
    """Rows compare only if every method quantizes every layer of the blocks and leaves to others what it was given.

    digest: of ``model`` before. Raises ``VggtEdgeError``: a method that breaks a rule is a defect, and gets no row.
    """
    left = [f"{name}.{path}" for name, block in quantized.blocks().items() for path in layers_of(block)]
    if left:
        raise VggtEdgeError(
            f"method {method.name} leaves {len(left)} layers as they are, {left[0]} among them",
            where=method.module,
            expected="every linear and convolution of every block to be quantized",
        )
    if model_digest(model) != digest:
        raise VggtEdgeError(
            f"method {method.name} has changed the model that it was given",
            where=method.module,
            expected="a quantized copy, and the model as it was",
        )
