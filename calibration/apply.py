"""Put a precision plan into a model: every linear and convolution is replaced by its quantized form, in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from vggt_edge.calibration.observation.collect import layers_of
from vggt_edge.calibration.observation.stats import CalibrationStats, TensorStats
from vggt_edge.calibration.plan import PrecisionPlan
from vggt_edge.calibration.quantization.attention import QuantizedAttend, attends_of
from vggt_edge.calibration.quantization.form import Form, LayerShape
from vggt_edge.calibration.quantization.linear import stored_layer
from vggt_edge.calibration.quantization.tuned import tuned_of
from vggt_edge.calibration.scheme import SCHEMES, Numbers, NumberType, Scheme, scheme
from vggt_edge.calibration.stages.walk import Stage, StagedModel
from vggt_edge.devices.errors import InputError

ACTIVATION_PERCENTILE = 99.99
IMPORTANCE_FLOOR = 1e-3  # of the mean: a channel that calibration never saw counts for something


def input_peak(stats: CalibrationStats, layer: str, numbers: Numbers) -> float:
    """The magnitude that the numbers of a layer's input reach to.

    Floats: the largest that was seen, since the small ones lose nothing by it. Integers: the 99.99th percentile of each
    token group, the larger of the two. Taken per group, the few special tokens cannot be clipped away by the many patch
    tokens. Mean output error (``sensitivity``) with all blocks of a half-trained vggt-mini in w8a8, 8 calibration and
    32 other scenes, 84 px::

        rule                              pose     depth    points
        absolute maximum                  1.9e-5   7.8e-8   1.9e-6
        99.999 per group                  1.7e-5   7.5e-8   1.9e-6
        99.99 per group                   1.4e-5   6.9e-8   1.9e-6
        99.99 patch, 99.9 special         1.5e-3   7.0e-8   1.9e-6
        99.9 per group                    1.5e-3   7.9e-8   2.0e-6
    """
    return max(_reach(tensor, numbers) for tensor in stats.of_layer(layer))


def _reach(tensor: TensorStats, numbers: Numbers) -> float:
    return tensor.absmax if numbers.type is NumberType.FLOAT else tensor.percentile(ACTIVATION_PERCENTILE)


def importance(stats: CalibrationStats, layer: str) -> Tensor:
    """What an error in each input channel of a linear weighs: the largest magnitude that came in there.

    vggt-mini in p4a16 has an AUC@30 of 79.4 with it and 77.5 with equal weights; its square is no better
    (tests/benchmarks/palettes.py). Convolutions are left with equal weights.
    """
    seen = stats.channel_peaks(layer)
    return torch.from_numpy(seen) + (float(seen.mean()) or 1.0) * IMPORTANCE_FLOOR


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


def quantized(
    layer: nn.Module, form: Form, input_scale: float | None = None, importance: Tensor | None = None
) -> nn.Module:
    """``layer`` in ``form``, with what tuning found for it; the layer itself where the form is FP32.

    input_scale: of a static input. importance: of each input channel, (in,), for the palette of a linear.
    ``ValueError`` where a weight is outside what the form can hold.
    """
    found = tuned_of(layer, form.scheme)
    return stored_layer(
        layer,
        form,
        input_scale=input_scale,
        importance=importance,
        scale=found.weight_scale if found else None,
        table=found.weight_table if found else None,
    )


def replacement(layer: nn.Module, name: str, form: Form, stats: CalibrationStats) -> nn.Module:
    """The layer called ``name`` (as in the statistics) in its form; the layer itself where that is FP32."""
    check_weights(name, layer)
    found = tuned_of(layer, form.scheme)
    try:
        scale = found.input_scale if found else None
        if scale is None and form.activation.is_calibrated:
            scale = form.input_scale(input_peak(stats, name, form.input))
        palette = form.weight.type is NumberType.PALETTE and isinstance(layer, nn.Linear)
        return quantized(layer, form, scale, importance(stats, name) if palette else None)
    except KeyError:
        raise _unknown_layer(name) from None
    except ValueError as error:
        raise InputError(
            f"{name}.weight cannot be stored as {form.scheme}: {error}",
            where=f"{name}.weight",
            expected="finite weights within the FP16 range",
            remedy="keep this layer in fp32, or check the checkpoint",
        ) from error


def _unknown_layer(name: str) -> InputError:
    return InputError(
        f"the statistics say nothing about layer {name}",
        where=name,
        expected="statistics of this model",
        remedy="run `vggt-edge calibrate` again",
    )


def attention_replacements(
    name: str, block: nn.Module, wanted: Callable[[str], Numbers | None], stats: CalibrationStats
) -> dict[str, QuantizedAttend]:
    """The attentions of a block that multiply 8-bit numbers, by their path in it.

    wanted: numbers of the attention at a path; None for floats.
    """
    found = {path: wanted(path) for path in attends_of(block)}
    return {path: _quantized_attend(f"{name}.{path}", one, stats) for path, one in found.items() if one is not None}


def _quantized_attend(name: str, numbers: Numbers, stats: CalibrationStats) -> QuantizedAttend:
    try:
        seen = stats.of_layer(name)
    except KeyError:
        raise _unknown_layer(name) from None
    peaks = {tensor.group: _reach(tensor, numbers) for tensor in seen}
    return QuantizedAttend(numbers, peaks, head_dim=len(stats.channel_absmax[f"{name}|key"]))


def block_replacements(
    name: str, block: nn.Module, wanted: Scheme, group_size: int, stats: CalibrationStats
) -> dict[str, nn.Module]:
    """New layers of one block, and its attention's products, by their path in it; the block is left as it is."""
    layers = {
        path: replacement(layer, f"{name}.{path}", Form.of(wanted, LayerShape.of(layer), group_size), stats)
        for path, layer in layers_of(block).items()
    }
    return layers | attention_replacements(name, block, lambda path: wanted.attention, stats)


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
            form = plan.form_of(name, path, LayerShape.of(layer))
            found[prefix + path] = replacement(layer, f"{name}.{path}", form, stats)
        attends = attention_replacements(name, every[name], partial(plan.attention_of, name), stats)
        found |= {prefix + path: attend for path, attend in attends.items()}
    names = {id(module): name for name, module in model.named_modules()}
    for path, layer in layers_of(stage.module).items():
        if id(layer) not in inside:
            form = Form.of(rest, LayerShape.of(layer), plan.group_size)
            found[path] = replacement(layer, names[id(layer)], form, stats)
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
    if rest.activation.is_calibrated:
        raise InputError(
            f"rest_scheme {rest.name} quantizes activations with scales of calibration",
            where="plan",
            expected=f"one of: {', '.join(name for name, one in SCHEMES.items() if not one.activation.is_calibrated)}",
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
