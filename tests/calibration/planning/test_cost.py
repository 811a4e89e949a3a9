from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from vggt_edge.calibration.planning.cost import (
    BlockCost,
    LayerCost,
    block_scheme,
    describe_blocks,
    latency_ms,
    peak_activation_bytes,
    rest_bytes,
    weight_bytes,
    widened,
)
from vggt_edge.calibration.quantization.form import GROUP_SIZES, Form, Kind, LayerShape
from vggt_edge.calibration.quantization.linear import QuantLayer
from vggt_edge.calibration.quantization.quantize import pack_int4
from vggt_edge.calibration.scheme import INT4, INT8, SCHEMES
from vggt_edge.devices.cpu import FP32_MACS, int8_macs
from vggt_edge.devices.errors import InputError, UnknownNameError
from vggt_edge.devices.profile import list_profiles, resolve
from vggt_edge.exporter.models.config import InputShape, VGGTConfig
from vggt_edge.exporter.models.vggt import VGGT

TINY = VGGTConfig(
    name="tiny",
    embed_dim=64,
    dino_depth=1,
    depth=4,
    heads=2,
    position_grid=2,
    taps=(0, 1, 2, 3),
    camera_trunk_depth=1,
    camera_heads=2,
    camera_iterations=3,
    dpt_features=16,
    dpt_channels=(16, 16, 16, 16),
    dpt_hidden=8,
)


@pytest.fixture(scope="module")
def model() -> VGGT:
    torch.manual_seed(0)
    return VGGT(TINY, InputShape(2, 28, 28)).fix_constants()


@pytest.fixture(scope="module")
def blocks(model: VGGT) -> dict[str, BlockCost]:
    return {block.name: block for block in describe_blocks(model, model.example_input())}


def linear(rows: int, columns: int, tokens: int, calls: int = 1) -> LayerCost:
    size = rows * columns
    return LayerCost(
        "fc", LayerShape(Kind.LINEAR, columns, rows, size), tokens * size, tokens * columns, tokens * rows, calls
    )


def block_of(*layers: LayerCost, other_count: int = 0) -> BlockCost:
    return BlockCost("b", layers, other_count, 0, 0, 0, 0)


def test_every_block_is_described_in_the_models_order(model: VGGT, blocks: dict[str, BlockCost]) -> None:
    assert list(blocks) == list(model.blocks())
    assert [layer.name for layer in blocks["frame_blocks.0"].layers] == ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
    assert blocks["depth_head"].is_conv
    assert not blocks["global_blocks.3"].is_conv


def test_every_parameter_is_counted_once(model: VGGT, blocks: dict[str, BlockCost]) -> None:
    counted = sum(weight_bytes(block, "fp32") for block in blocks.values()) + rest_bytes(model, "fp32")
    integer_tables = sum(t.numel() * t.element_size() for t in model.buffers() if not t.is_floating_point())
    float_tables = sum(t.numel() for t in model.buffers() if t.is_floating_point())
    assert counted == 4 * (sum(p.numel() for p in model.parameters()) + float_tables) + integer_tables


def test_transformer_block_by_hand(blocks: dict[str, BlockCost]) -> None:
    """A frame block sees 2 frames of 5 + 4 tokens, a global one both frames at once."""
    frame, every, tokens, dim = blocks["frame_blocks.0"], blocks["global_blocks.0"], 9, 64
    assert [layer.macs for layer in frame.layers] == [
        2 * tokens * dim * out for out in (3 * dim, dim, 4 * dim, 4 * dim)
    ]
    assert frame.attention_macs == 2 * 2 * tokens**2 * dim
    assert every.attention_macs == 2 * (2 * tokens) ** 2 * dim
    assert frame.attention_count == every.attention_count == 4 * 2 * tokens * dim
    assert frame.input_count == frame.output_count == 2 * tokens * dim


def test_the_camera_trunk_runs_once_per_iteration(blocks: dict[str, BlockCost]) -> None:
    trunk = blocks["camera_head.trunk.0"]
    assert {layer.calls for layer in trunk.layers} == {TINY.camera_iterations}
    assert trunk.layers[1].macs == TINY.camera_iterations * 2 * 128 * 128
    assert trunk.input_count == 2 * 128


def test_convolutions_by_hand(blocks: dict[str, BlockCost]) -> None:
    layers = {layer.name: layer for layer in blocks["depth_head"].layers}
    assert layers["projects.0"].macs == 2 * 4 * 128 * 16
    assert layers["resize_layers.0"].macs == 2 * 4 * 16 * 16 * 16  # each of 4 positions feeds a 4x4 patch
    assert layers["scratch.output_conv2.0"].macs == 2 * 28 * 28 * 8 * 8 * 9


def test_describing_leaves_the_model_alone(model: VGGT) -> None:
    images = torch.rand(1, 2, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    before = model(images)
    describe_blocks(model, model.example_input())
    assert all(torch.equal(one, other) for one, other in zip(before, model(images), strict=True))
    assert not any(module._forward_hooks for module in model.modules())


class OneBlock(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def blocks(self) -> dict[str, nn.Module]:
        return {"only": self.block}

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


def test_fake_and_real_forwards_agree() -> None:
    """The shapes that the hooks count on fake tensors are those of a real run."""
    net = OneBlock(nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ConvTranspose2d(4, 2, 4, stride=4)))
    (cost,) = describe_blocks(net, torch.zeros(1, 3, 9, 11))
    middle = net.block[0](torch.zeros(1, 3, 9, 11))
    assert cost.layers[0].output_count == cost.layers[1].input_count == middle.numel()
    assert cost.layers[0].macs == middle.numel() * 27
    assert cost.layers[1].macs == middle.numel() * 32
    assert cost.output_count == net.block[1](middle).numel()


def test_a_quantized_model_is_refused() -> None:
    with pytest.raises(InputError, match="block only has no linear"):
        describe_blocks(OneBlock(nn.Sequential(nn.GELU())), torch.zeros(1, 4))


@pytest.mark.parametrize(("group", "rows", "columns"), [(64, 7, 128), (128, 3, 256), (64, 5, 96)])
def test_four_bit_bytes_are_those_of_the_real_quantizer(group: int, rows: int, columns: int) -> None:
    source = nn.Linear(columns, rows, bias=False)
    real = QuantLayer(source, Form.of(SCHEMES["w4a16"], LayerShape.of(source), group))
    stored = pack_int4(real.weight_q).numel() + 2 * real.weight_scale.numel()
    assert weight_bytes(block_of(linear(rows, columns, 1)), "w4a16", group) == stored


def test_eight_bit_bytes_are_those_of_the_real_quantizer() -> None:
    source = nn.Conv2d(6, 5, 3, bias=False)
    real = QuantLayer(source, Form.of(SCHEMES["w8a8"], LayerShape.of(source)), input_scale=0.1)
    layer = LayerCost("conv", LayerShape(Kind.CONVOLUTION, 6, 5, 270), 0, 0, 0)
    stored = real.weight_q.numel() * real.weight_q.element_size() + real.weight_scale.numel() * 4
    assert weight_bytes(block_of(layer), "w8a16") == stored
    assert weight_bytes(block_of(layer), "w8a8") == stored + 4
    assert weight_bytes(block_of(layer), "w4a16") == stored  # no 4-bit convolution
    assert weight_bytes(block_of(layer, other_count=3), "w8a16") == stored + 12


def test_what_no_group_divides_stays_at_eight_bits() -> None:
    odd = block_of(linear(8, 9, 1))
    assert weight_bytes(odd, "w4a16", 64) == weight_bytes(odd, "w8a16")


def test_only_blocks_of_convolutions_lose_four_bits(blocks: dict[str, BlockCost]) -> None:
    assert block_scheme(blocks["point_head"], "w4a16") == "w8a16"
    assert block_scheme(blocks["point_head"], "w4a8d") == "w8a8d"
    assert block_scheme(blocks["point_head"], "w8a8") == "w8a8"
    assert block_scheme(blocks["frame_blocks.0"], "w4a16") == "w4a16"
    with pytest.raises(UnknownNameError):
        block_scheme(blocks["point_head"], "w3a3")


@given(st.integers(1, 40).map(lambda n: 64 * n), st.integers(1, 999))
def test_fewer_bits_are_fewer_bytes(columns: int, rows: int) -> None:
    layer = block_of(linear(rows, columns, 1))
    sizes = [weight_bytes(layer, name, 64) for name in ("fp32", "fp16", "w8a8", "w8a16", "w4a16")]
    assert sizes == sorted(sizes, reverse=True)


def test_a_compute_bound_layer_follows_the_throughput() -> None:
    """4096 tokens through 1024 x 1024: 8.6 G operations, 8.4 MB in and out in FP16."""
    profile, block = resolve("jetson-orin"), block_of(linear(1024, 1024, 4096))
    operations, overhead_ms = 2 * 4096 * 1024 * 1024, profile.layer_overhead_us / 1e3
    assert latency_ms(block, "fp16", profile) == pytest.approx(1e3 * operations / 17e12 + overhead_ms, abs=1e-6)
    assert latency_ms(block, "w4a16", profile) == latency_ms(block, "fp16", profile)
    assert latency_ms(block, "w8a8", profile) < latency_ms(block, "fp16", profile)


def test_a_memory_bound_layer_follows_its_bytes() -> None:
    """One token: the weights are the traffic, so 4 bits are about four times faster than 16."""
    profile, block = resolve("jetson-orin"), block_of(linear(4096, 4096, 1))
    traffic = weight_bytes(block, "fp16") + 2 * 2 * 4096
    overhead_ms = profile.layer_overhead_us / 1e3
    assert latency_ms(block, "fp16", profile) == pytest.approx(1e3 * traffic / 102e9 + overhead_ms, abs=1e-6)
    ratio = (latency_ms(block, "fp16", profile) - overhead_ms) / (latency_ms(block, "w4a16", profile) - overhead_ms)
    assert 3.5 < ratio < 4


def test_a_cpu_without_fp16_computes_it_in_fp32() -> None:
    host, block = resolve("host"), block_of(linear(512, 512, 4096))
    assert latency_ms(block, "w8a16", host) == pytest.approx(latency_ms(block, "fp32", host), rel=1e-3)
    assert latency_ms(block, "w8a8", host) < 0.6 * latency_ms(block, "fp32", host)


def test_each_call_of_a_layer_costs_its_overhead() -> None:
    profile = resolve("jetson-orin")
    once, four = block_of(linear(64, 64, 4)), block_of(linear(64, 64, 4, calls=4))
    extra_ms = latency_ms(four, "fp16", profile) - latency_ms(once, "fp16", profile)
    assert extra_ms > 3 * profile.layer_overhead_us / 1e3


def test_weights_that_are_widened_in_memory_are_charged_what_moves() -> None:
    """Read packed and written wide once, then read wide by each of four calls, with one launch more."""
    orin = resolve("jetson-agx-orin-64gb")
    layer = linear(4096, 4096, tokens=1, calls=4)
    packed, wide = (
        latency_ms(BlockCost("b", (replace(layer, widened=numbers),), 0, 0, 0, 1, 1), "w4a16", orin, 64)
        for numbers in (frozenset({INT8}), frozenset({INT4}))
    )
    stored = layer.form("w4a16", 64).stored_bytes(layer.shape)
    more = stored + 5 * 2 * 4096 * 4096 - 4 * stored
    assert wide - packed == pytest.approx(1e3 * (more / orin.bandwidth_bytes_per_s + orin.layer_overhead_us * 1e-6))
    for scheme in ("fp16", "w8a8"):
        costs = {
            latency_ms(BlockCost("b", (replace(layer, widened=numbers),), 0, 0, 0, 1, 1), scheme, orin)
            for numbers in (frozenset(), frozenset({INT8}))
        }
        assert len(costs) == 1, scheme


def test_layers_are_marked_by_their_shape_and_calls(blocks: dict[str, BlockCost]) -> None:
    marked = {
        block.name: block
        for block in widened(blocks.values(), lambda shape, calls, weight: calls > 1 and weight == INT4)
    }
    assert {one.widened for one in marked["camera_head.trunk.0"].layers} == {frozenset({INT4})}
    assert {one.widened for one in marked["frame_blocks.0"].layers} == {frozenset()}


def test_transposed_convolutions_are_told_apart(blocks: dict[str, BlockCost]) -> None:
    names = {one.name for one in blocks["depth_head"].layers if one.shape.kind is Kind.TRANSPOSED}
    assert names == {"resize_layers.0", "resize_layers.1"}


def test_attention_is_part_of_the_latency(blocks: dict[str, BlockCost]) -> None:
    profile, block = resolve("jetson-orin"), blocks["global_blocks.0"]
    without = BlockCost(block.name, block.layers, block.other_count, 0, 0, block.input_count, block.output_count)
    assert latency_ms(block, "w8a8", profile) > latency_ms(without, "w8a8", profile)
    assert block.macs == without.macs + block.attention_macs


def test_peak_activations_hold_at_least_what_the_dense_head_waits_for(blocks: dict[str, BlockCost]) -> None:
    entries = 4 * 2 * 4 * 128  # levels, frames, patches, channels
    assert blocks["depth_head"].input_count == entries
    peak = peak_activation_bytes(list(blocks.values()))
    assert peak > 2 * entries
    assert peak_activation_bytes(list(blocks.values()), 4) == 2 * peak


def test_the_profiles_speak_the_vocabulary_of_schemes() -> None:
    for profile in list_profiles():
        assert set(profile.runnable) <= set(SCHEMES)
        assert set(profile.group_sizes) <= set(GROUP_SIZES)


def test_a_quantized_input_is_read_twice_and_written_once() -> None:
    """One token through 4096 x 4096 int8 weights on a phone: each of two operators is bound by its traffic."""
    phone, block = resolve("android"), block_of(linear(4096, 4096, 1))
    quantizing = 4096 * (4 + 4 + 1)
    product = weight_bytes(block, "w8a8d") + 4096 + 4 * 4096
    overhead_ms = 2 * phone.layer_overhead_us / 1e3
    expected_ms = 1e3 * (quantizing + product) / phone.bandwidth_bytes_per_s + overhead_ms
    assert latency_ms(block, "w8a8d", phone) == pytest.approx(expected_ms, abs=1e-6)


def test_four_bits_pay_where_weights_are_the_traffic() -> None:
    """With one token the bytes decide; with many, unpacking and the scales of groups cost more than 8 bits do."""
    phone, one, many = resolve("android"), block_of(linear(4096, 4096, 1)), block_of(linear(1024, 1024, 1374))
    assert latency_ms(one, "w4a8d", phone, 32) < 0.7 * latency_ms(one, "w8a8d", phone)
    times = [latency_ms(many, name, phone, 32) for name in ("w8a8d", "w4a8d", "fp32")]
    assert times == sorted(times)
    larger = [latency_ms(many, "w4a8d", phone, group) for group in (128, 64, 32)]
    assert larger == sorted(set(larger))


def test_a_product_of_four_bits_by_hand() -> None:
    """1374 tokens through 1024 x 1024 in groups of 32: products, one rescaled sum per group, weights of 86 tiles."""
    phone, layer = resolve("android"), linear(1024, 1024, 1374)
    extra = 4 * 1374 * 1024 * (1024 // 32) + 0.5 * 1024 * 1024 * 1374 / 16
    seconds = 2 * layer.macs / phone.ops_per_s("int8") + extra / phone.ops_per_s("fp32")
    quantizing = 1374 * 1024 * max(10 / phone.ops_per_s("fp32"), 9 / phone.bandwidth_bytes_per_s)
    expected_ms = 1e3 * (seconds + quantizing) + 2 * phone.layer_overhead_us / 1e3
    assert latency_ms(block_of(layer), "w4a8d", phone, 32) == pytest.approx(expected_ms, abs=1e-6)


def test_dot_products_and_matrix_products_are_priced() -> None:
    """The same phone with fewer instructions is slower at int8, and as fast at FP32."""
    phone, block = resolve("android"), block_of(linear(1024, 1024, 1374))
    fp32 = phone.ops_per_s("fp32")
    slower = [
        replace(phone, throughput_ops_per_s={"fp32": fp32, "int8": fp32 * int8_macs(features) / FP32_MACS})
        for features in (("i8mm", "dotprod"), ("dotprod",), ())
    ]
    for name in ("w8a8d", "w4a8d"):
        times = [latency_ms(block, name, one, 32) for one in slower]
        assert times == sorted(set(times))
        assert times[0] == latency_ms(block, name, phone, 32)
    assert len({latency_ms(block, "fp32", one) for one in slower}) == 1


@given(st.integers(1, 12).map(lambda n: 64 * n), st.integers(1, 99), st.integers(1, 999))
def test_activations_quantized_at_run_time_never_come_for_free(columns: int, rows: int, tokens: int) -> None:
    """On the PC, where w8a8 has the same product without that operator."""
    host, block = resolve("host"), block_of(linear(rows, columns, tokens))
    assert latency_ms(block, "w8a8d", host) > latency_ms(block, "w8a8", host)
    assert weight_bytes(block, "w8a8d") == weight_bytes(block, "w8a8") - 4


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize(
    "layer",
    [nn.Linear(128, 5), nn.Linear(96, 7), nn.Linear(9, 8), nn.Conv2d(64, 8, 1), nn.ConvTranspose2d(32, 8, 2)],
    ids=str,
)
def test_what_a_layer_is_counted_as_is_what_it_gets(layer: nn.Module, group: int) -> None:
    """The bytes of a layer under w4a8d and w4a16 are those of the scheme of its form."""
    (cost,) = describe_blocks(OneBlock(nn.Sequential(layer)), example_of(layer))
    for name in ("w4a16", "w4a8d"):
        real = Form.of(SCHEMES[name], LayerShape.of(layer), group).scheme
        assert weight_bytes(cost, name, group) == weight_bytes(cost, real, group)
        assert (SCHEMES[real].weight_bits == 4) == (weight_bytes(cost, name, group) < weight_bytes(cost, "w8a16"))


def example_of(layer: nn.Module) -> Tensor:
    """An input that the layer takes."""
    shape = (3, layer.in_features) if isinstance(layer, nn.Linear) else (1, layer.in_channels, 4, 4)
    return torch.zeros(shape)


def test_small_layers_are_counted_at_8_bits_under_a_palette() -> None:
    """As the last convolutions of a dense head, which have no palette form; a block of nothing else has none either."""
    small = LayerCost("head.small", LayerShape(Kind.CONVOLUTION, 32, 4, 128), 0, 0, 0)
    large = LayerCost("head.large", LayerShape(Kind.CONVOLUTION, 32, 32, 9216), 0, 0, 0)
    both, alone = (BlockCost("head", layers, 0, 0, 0, 0, 0) for layers in ((small, large), (small,)))
    assert block_scheme(both, "p4a16") == "p4a16"
    assert block_scheme(alone, "p4a16") == "w8a16"
    tables = 2 * 2 * 16
    assert weight_bytes(both, "p4a16") == (128 + 4 * 4) + (9216 // 2 + tables)
