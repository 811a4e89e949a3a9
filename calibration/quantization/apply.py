"""Put a precision plan into a model: every linear and convolution is replaced by its quantized form, in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vggt_edge.calibration.observation.collect import layers_of
from vggt_edge.calibration.observation.stats import CalibrationStats
from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.planning.cost import conv_scheme
from vggt_edge.calibration.quantization.linear import (
    DYNAMIC,
    HalfConv2d,
    HalfConvTranspose2d,
    HalfLinear,
    PaletteConv2d,
    PaletteConvTranspose2d,
    PaletteLinear,
    QuantConv2d,
    QuantConvTranspose2d,
    QuantLinear,
)
from vggt_edge.calibration.quantization.quantize import activation_scale, usable_group
from vggt_edge.calibration.quantization.tuned import tuned_of
from vggt_edge.calibration.scheme import Activation, Scheme, form_of, scheme
from vggt_edge.calibration.stages.walk import Stage, StagedModel
from vggt_edge.devices.errors import InputError

ACTIVATION_PERCENTILE = 99.99
IMPORTANCE_FLOOR = 1e-3  # of the mean: a channel that calibration never saw counts for something


@dataclass(frozen=True)
class Recipe:
    """How one layer is quantized. input_scale: of the static int8 input, where the scheme has one, not of a dynamic.

    importance: of each input channel, (in,), for the palette of a linear.
    """

    scheme: Scheme
    group_size: int
    input_scale: float | None = None
    importance: Tensor | None = None


def input_scale(stats: CalibrationStats, layer: str) -> float:
    """Static per-tensor scale of a layer's input: the 99.99th percentile of each token group, the larger of the two.

    Taken per group, the few special tokens cannot be clipped away by the many patch tokens. Mean output error
    (``sensitivity``) with all blocks of a half-trained vggt-mini in w8a8, 8 calibration and 32 other scenes, 84 px::

        rule                              pose     depth    points
        absolute maximum                  1.9e-5   7.8e-8   1.9e-6
        99.999 per group                  1.7e-5   7.5e-8   1.9e-6
        99.99 per group                   1.4e-5   6.9e-8   1.9e-6
        99.99 patch, 99.9 special         1.5e-3   7.0e-8   1.9e-6
        99.9 per group                    1.5e-3   7.9e-8   2.0e-6
    """
    return activation_scale(max(tensor.percentile(ACTIVATION_PERCENTILE) for tensor in stats.of_layer(layer)))


def importance(stats: CalibrationStats, layer: str) -> Tensor:
    """What an error in each input channel of a linear weighs: the largest magnitude that came in there.

    vggt-mini in p4a16 has an AUC@30 of 79.4 with it and 77.5 with equal weights; its square is no better
    (tests/benchmarks/palettes.py). Convolutions are left with equal weights.
    """
    seen = stats.channel_peaks(layer)
    return torch.from_numpy(seen) + (float(seen.mean()) or 1.0) * IMPORTANCE_FLOOR


def quantized(layer: nn.Module, recipe: Recipe) -> nn.Module:
    """The replacement of one layer; the layer itself for ``fp32``.

    Grouped schemes fall back to the largest supported group that divides the input dimension, and to 8 bits per channel
    with the same activations for convolutions and for linears that no group divides (``realised_scheme`` tells).
    ``ValueError`` where a weight is outside what the scheme can hold.
    """
    real = scheme(realised_scheme(layer, recipe.scheme.name, recipe.group_size))
    if real.name == "fp32":
        return layer
    if real.name == "fp16":
        return _half_form(layer)
    found = tuned_of(layer, real.name)
    if real.palette:
        return _palette_form(layer, real.weight_bits, recipe.importance, found.weight_table if found else None)
    input_scale = DYNAMIC if real.activation is Activation.DYNAMIC_TOKEN else recipe.input_scale
    scale = found.weight_scale if found else None
    if isinstance(layer, nn.Linear):
        group = None if real.group_size is None else usable_group(layer.in_features, recipe.group_size)
        return QuantLinear(
            layer,
            bits=real.weight_bits,
            group_size=group,
            input_scale=input_scale,
            input_bits=real.activation_bits,
            scale=scale,
        )
    if isinstance(layer, nn.ConvTranspose2d):
        return QuantConvTranspose2d(layer, input_scale=input_scale, scale=scale)
    assert isinstance(layer, nn.Conv2d)
    return QuantConv2d(layer, input_scale=input_scale, scale=scale)


def _half_form(layer: nn.Module) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return HalfLinear(layer)
    if isinstance(layer, nn.ConvTranspose2d):
        return HalfConvTranspose2d(layer)
    assert isinstance(layer, nn.Conv2d)
    return HalfConv2d(layer)


def _palette_form(layer: nn.Module, bits: int, weights: Tensor | None, table: Tensor | None) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return PaletteLinear(layer, bits=bits, importance=weights, table=table)
    if isinstance(layer, nn.ConvTranspose2d):
        return PaletteConvTranspose2d(layer, bits=bits)
    assert isinstance(layer, nn.Conv2d)
    return PaletteConv2d(layer, bits=bits)


def realised_scheme(layer: nn.Module, name: str, group_size: int) -> str:
    """What a layer really gets when ``name`` is asked of it: 8 bits where it has no 4-bit or palette form."""
    grouped = scheme(name).group_size is not None
    if grouped and not (isinstance(layer, nn.Linear) and usable_group(layer.in_features, group_size)):
        return conv_scheme(name)
    return form_of(name, layer.get_parameter("weight").numel())


def check_weights(name: str, layer: nn.Module) -> None:
    """``InputError`` naming the tensor that holds NaN or Inf."""
    for kind, tensor in layer.named_parameters(recurse=False):
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"tensor {name}.{kind} holds NaN or Inf",
                where=f"{name}.{kind}",
                expected="finite weights",
                remedy="the checkpoint is broken: fetch or convert it again",
            )


def replacement(layer: nn.Module, name: str, wanted: Scheme, group_size: int, stats: CalibrationStats) -> nn.Module:
    """The quantized form of the layer called ``name`` (as in the statistics); the layer itself for fp32."""
    check_weights(name, layer)
    found = tuned_of(layer, realised_scheme(layer, wanted.name, group_size))
    try:
        scale = found.input_scale if found else None
        if scale is None and wanted.activation is Activation.STATIC_TENSOR:
            scale = input_scale(stats, name)
        weights = importance(stats, name) if wanted.palette and isinstance(layer, nn.Linear) else None
        return quantized(layer, Recipe(wanted, group_size, scale, weights))
    except KeyError:
        raise InputError(
            f"the statistics say nothing about layer {name}",
            where=name,
            expected="statistics of this model",
            remedy="run `vggt-edge calibrate` again",
        ) from None
    except ValueError as error:
        raise InputError(
            f"{name}.weight cannot be stored as {wanted.name}: {error}",
            where=f"{name}.weight",
            expected="finite weights within the FP16 range",
            remedy="keep this layer in fp32, or check the checkpoint",
        ) from error


def block_replacements(
    name: str, block: nn.Module, wanted: Scheme, group_size: int, stats: CalibrationStats
) -> dict[str, nn.Module]:
    """New layers of one block by their path in it; the block is left as it is."""
    return {
        path: replacement(layer, f"{name}.{path}", wanted, group_size, stats)
        for path, layer in layers_of(block).items()
    }


def replace_layers(parent: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    for path, layer in layers.items():
        parent.set_submodule(path, layer)


@contextmanager
def swapped(parent: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[None]:
    """Put ``layers`` into ``parent`` by their paths, and the original ones back at the end."""
    originals = {path: parent.get_submodule(path) for path in layers}
    replace_layers(parent, layers)
    try:
        yield
    finally:
        replace_layers(parent, originals)


def planned_layers(
    model: StagedModel, stage: Stage, plan: PrecisionPlan, stats: CalibrationStats
) -> dict[str, nn.Module]:
    """The layers that ``plan`` gives one stage, by their path in its module, which is left as it is.

    A layer outside the blocks gets the plan's rest scheme, one that an assignment excludes the plan's kept scheme.
    ``InputError`` when plan, statistics and model do not belong together, or for weights that are not finite.
    """
    every, rest = model.blocks(), _rest_scheme(plan)
    paths = {id(module): path for path, module in stage.module.named_modules()}
    inside = {id(layer) for block in every.values() for layer in layers_of(block).values()}
    found: dict[str, nn.Module] = {}
    for name in stage.blocks:
        _check_exclusions(name, every[name], plan)
        prefix = f"{paths[id(every[name])]}." if paths[id(every[name])] else ""
        for path, layer in layers_of(every[name]).items():
            wanted = plan.scheme_of_layer(name, path)
            found[prefix + path] = replacement(layer, f"{name}.{path}", wanted, plan.group_size, stats)
    names = {id(module): name for name, module in model.named_modules()}
    for path, layer in layers_of(stage.module).items():
        if id(layer) not in inside:
            found[path] = replacement(layer, names[id(layer)], rest, plan.group_size, stats)
    return found


@contextmanager
def quantized_stage(model: StagedModel, stage: Stage, plan: PrecisionPlan, stats: CalibrationStats) -> Iterator[None]:
    """Within this context the stage computes as ``plan`` says; only its own quantized weights are held in memory."""
    with swapped(stage.module, planned_layers(model, stage, plan, stats)):
        yield


def apply_plan(model: StagedModel, plan: PrecisionPlan, stats: CalibrationStats) -> None:
    """Quantize the whole of ``model`` in place as ``plan`` says; ``planned_layers`` tells how, and what it raises."""
    plan.check_total(model.blocks())
    # All replacements are made before the first is put in: an error leaves the model as it was.
    changes = [(stage.module, planned_layers(model, stage, plan, stats)) for stage in model.stages()]
    for parent, layers in changes:
        replace_layers(parent, layers)


def _rest_scheme(plan: PrecisionPlan) -> Scheme:
    """Calibration watches the inputs of the blocks' layers only, so the others can have no static scale."""
    rest = scheme(plan.rest_scheme)
    if rest.activation is Activation.STATIC_TENSOR:
        raise InputError(
            f"rest_scheme {rest.name} quantizes activations with scales of calibration",
            where="plan",
            expected="fp32, fp16, w8a16, w4a16, w8a8d or w4a8d",
        )
    return rest


def _check_exclusions(name: str, block: nn.Module, plan: PrecisionPlan) -> None:
    unknown = sorted(set(plan.assignment(name).excluded) - set(layers_of(block)))
    if unknown:
        raise InputError(
            f"block {name} excludes layers that it does not have: {', '.join(unknown)}",
            where="plan",
            expected=f"some of: {', '.join(layers_of(block))}",
        )
