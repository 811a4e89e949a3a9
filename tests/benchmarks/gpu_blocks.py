"""Runs a block of VGGT-1B on a real GPU in FP8, INT8, FP16 and FP32: outputs against our simulation, and times.

    python tests/benchmarks/gpu_blocks.py prepare FOLDER    here, on the CPU: scales, inputs and simulated outputs
    python tests/benchmarks/gpu_blocks.py run FOLDER        on the GPU's machine; needs torch and safetensors only

Products are torch's (cuBLASLt): FP8 by FP8 and INT8 by INT8 on tensor cores. They show what the formats compute and
gain on that card; TensorRT chooses other kernels and fuses other operators. Weights are random, of the real widths.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

DIM, HEADS, CHECKED_TOKENS, ROWS = 1024, 16, 512, 64
# One, four and ten frames of 518 x 518: 37 x 37 patches and 5 special tokens each.
TOKENS = (1374, 5496, 13740)
SCHEMES = ("fp8", "w8a8")
SHAPES = {
    "attn.qkv": (3 * DIM, DIM),
    "attn.proj": (DIM, DIM),
    "mlp.fc1": (4 * DIM, DIM),
    "mlp.fc2": (DIM, 4 * DIM),
}
LINEARS = tuple(SHAPES)
FILE = "block.safetensors"
SECONDS = 240.0  # after which no further size is begun


def weights() -> dict[str, Tensor]:
    """The random weights (out, in) and biases (out,), the same on both machines: they are too large to carry."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for path, (rows, columns) in SHAPES.items():
        found[f"{path}.weight"] = (torch.rand(rows, columns, generator=generator) * 2 - 1) / columns**0.5
        found[f"{path}.bias"] = (torch.rand(rows, generator=generator) * 2 - 1) / columns**0.5
    return found


def digest(tensors: dict[str, Tensor]) -> bytes:
    """sha256 of all values."""
    content = hashlib.sha256()
    for tensor in tensors.values():
        content.update(tensor.numpy().tobytes())
    return content.digest()


# --- here ---------------------------------------------------------------------------------------------------------


def prepare(folder: Path) -> None:
    """Write the weights of one block in each scheme, its input, and what the simulation makes of it."""
    from safetensors.torch import save_file

    from vggt_edge.calibration.quantization.form import Form, LayerShape
    from vggt_edge.calibration.quantization.linear import QuantLayer, stored_layer
    from vggt_edge.calibration.scheme import SCHEMES as ALL
    from vggt_edge.exporter.models.layers import Block

    block = Block(DIM, HEADS, layer_scale=1.0).eval()
    put_weights(block)
    torch.manual_seed(1)
    x = torch.randn(CHECKED_TOKENS, DIM)
    x[:, ::97] *= 8  # channels that stand out, as transformers have them
    seen: dict[str, Tensor] = {}
    for path in LINEARS:
        block.get_submodule(path).register_forward_pre_hook(lambda _, given, path=path: seen.update({path: given[0]}))
    with torch.inference_mode():
        stored = {"x": x, "fp32": block(x, 1)}
        stored["digest"] = torch.tensor(list(digest(weights())), dtype=torch.uint8)
        inputs = {path: values.clone() for path, values in seen.items()}
        for scheme in SCHEMES:
            quantized = Block(DIM, HEADS, layer_scale=1.0).eval()
            put_weights(quantized)
            for path in LINEARS:
                layer = quantized.get_submodule(path)
                assert isinstance(layer, nn.Linear)
                form = Form.of(ALL[scheme], LayerShape.of(layer))
                scale = form.input_scale(float(inputs[path].abs().max()))
                new = stored_layer(layer, form, input_scale=scale)
                assert isinstance(new, QuantLayer)
                quantized.set_submodule(path, new)
                stored |= {
                    f"{scheme}.{path}.scale": new.weight_scale,
                    f"{scheme}.{path}.input_scale": torch.tensor(scale),
                    f"{scheme}.{path}.input": inputs[path][:ROWS].half(),
                    f"{scheme}.{path}.output": new(inputs[path][:ROWS].half().float()),
                }
            stored[f"{scheme}.block"] = quantized(x, 1)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, folder / FILE)
    print(f"{folder / FILE}: {(folder / FILE).stat().st_size / 1e6:.1f} MB")


def put_weights(block: nn.Module) -> None:
    """Give a block the weights of both machines."""
    with torch.no_grad():
        for name, values in weights().items():
            block.get_parameter(name).copy_(values)


# --- on the GPU's machine -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Linear:
    """A linear in one number format. weight (out, in), scale (out,) and input_scale of narrow formats, bias (out,)."""

    kind: str
    weight: Tensor
    bias: Tensor
    scale: Tensor | None = None
    input_scale: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """x (tokens, in) of the compute type to (tokens, out) of the same."""
        if self.scale is None or self.input_scale is None:
            return functional.linear(x, self.weight, self.bias)
        if self.kind == "w8a8":
            narrow = (x.float() / self.input_scale).round().clamp(-128, 127).to(torch.int8)
            product = torch._int_mm(narrow, self.weight.t())
            return (product.float() * (self.scale * self.input_scale) + self.bias).to(x.dtype)
        narrow = (x.float() / self.input_scale).clamp(-448, 448).to(torch.float8_e4m3fn)
        rows = self.input_scale.expand(len(x), 1).contiguous()
        channels = self.scale.view(1, -1)
        product = torch._scaled_mm(
            narrow, self.weight.t(), scale_a=rows, scale_b=channels, out_dtype=torch.bfloat16,
            use_fast_accum=self.kind == "fp8, fast accumulation",
        )  # fmt: skip
        return (product.float() + self.bias).to(x.dtype)


def run_block(linears: dict[str, Linear], x: Tensor) -> Tensor:
    """Pre-norm block without q/k norm and RoPE, x (tokens, dim), all tokens seeing all."""
    tokens = len(x)
    heads = linears["attn.qkv"](functional.layer_norm(x, (DIM,), eps=1e-5)).view(1, tokens, 3 * HEADS, DIM // HEADS)
    q, k, v = heads.transpose(1, 2).chunk(3, dim=1)
    mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(tokens, DIM)
    x = x + linears["attn.proj"](mixed)
    hidden = functional.gelu(linears["mlp.fc1"](functional.layer_norm(x, (DIM,), eps=1e-5)))
    return x + linears["mlp.fc2"](hidden)


def loaded(stored: dict[str, Tensor], kind: str) -> dict[str, Linear]:
    """The linears of one format."""
    scheme = kind.partition(",")[0] if kind.startswith(SCHEMES) else "fp8"
    dtype = torch.float32 if kind == "fp32" else torch.float16
    found = {}
    for path in LINEARS:
        weight, bias = stored[f"{path}.weight"], stored[f"{path}.bias"]
        if kind in ("fp16", "fp32"):
            found[path] = Linear(kind, weight.to(dtype), bias.to(dtype))
            continue
        scale = stored[f"{scheme}.{path}.scale"]
        steps = weight / scale[:, None]
        if scheme == "w8a8":
            narrow = steps.round().clamp(-127, 127).to(torch.int8)
        else:
            narrow = steps.clamp(-448, 448).to(torch.float8_e4m3fn)
        found[path] = Linear(kind, narrow, bias, scale, stored[f"{scheme}.{path}.input_scale"])
    return found


def sqnr_db(actual: Tensor, expected: Tensor) -> float:
    noise = float((actual.double() - expected.double()).square().sum())
    return float("inf") if noise == 0 else 10 * float(torch.log10(expected.double().square().sum() / noise))


def compared(stored: dict[str, Tensor], kind: str) -> dict[str, float]:
    """SQNR in dB against the simulation, per linear on equal inputs and of the whole block."""
    scheme, linears = kind.partition(",")[0], loaded(stored, kind)
    figures = {
        path: sqnr_db(linears[path](stored[f"{scheme}.{path}.input"]), stored[f"{scheme}.{path}.output"])
        for path in LINEARS
    }
    figures["block"] = sqnr_db(run_block(linears, stored["x"].half()), stored[f"{scheme}.block"])
    figures["block against FP32"] = sqnr_db(run_block(linears, stored["x"].half()), stored["fp32"])
    figures["simulation against FP32"] = sqnr_db(stored[f"{scheme}.block"], stored["fp32"])
    return figures


def median_ms(work: Callable[[], Any], runs: int = 30) -> float:
    """Time of a replay of a CUDA graph of ``work``, by events; the median of ``runs``."""
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    times = []
    for _ in range(runs):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def run(folder: Path, device: str) -> None:
    """Print and write what the card computes and how long it takes."""
    from safetensors.torch import load_file

    torch.backends.cuda.matmul.allow_tf32 = False
    made, carried = weights(), load_file(folder / FILE)
    if digest(made) != bytes(carried["digest"].tolist()):
        raise SystemExit("this torch draws other random numbers than the one of `prepare`: nothing to compare")
    stored = {name: tensor.to(device) for name, tensor in (made | carried).items()}
    card = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    result: dict[str, Any] = {"card": card, "torch": torch.__version__, "accuracy_db": {}, "times_ms": {}}
    narrow = ("fp8", "fp8, fast accumulation", "w8a8") if device == "cuda" else ("w8a8",)
    print(f"{card}, torch {torch.__version__}", flush=True)
    with torch.inference_mode():
        for kind in narrow:
            result["accuracy_db"][kind] = compared(stored, kind)
            print(kind, {name: round(value, 1) for name, value in result["accuracy_db"][kind].items()}, flush=True)
        began = time.perf_counter()
        for tokens in TOKENS if device == "cuda" else ():
            if time.perf_counter() - began > SECONDS:
                print(f"{tokens} tokens and more: not run, for want of time")
                break
            result["times_ms"][str(tokens)] = timed(stored, (*narrow, "fp16", "fp32"), tokens)
    (folder / "result.json").write_text(json.dumps(result, indent=1))


def timed(stored: dict[str, Tensor], kinds: tuple[str, ...], tokens: int) -> dict[str, dict[str, float]]:
    """Milliseconds of the whole block, compiled by torch, and of its four linears one after another."""
    found: dict[str, dict[str, float]] = {}
    for kind in kinds:
        linears = loaded(stored, kind)
        x = torch.randn(tokens, DIM, device="cuda", dtype=torch.float32 if kind == "fp32" else torch.float16)
        wide = torch.randn(tokens, 4 * DIM, device="cuda", dtype=x.dtype)
        block = torch.compile(run_block, dynamic=False)
        products = torch.compile(_products, dynamic=False)
        found[kind] = {
            "block": median_ms(lambda b=block, one=linears, x=x: b(one, x)),
            "linears": median_ms(lambda p=products, one=linears, x=x, wide=wide: p(one, x, wide)),
        }
        print(tokens, kind, {name: round(value, 3) for name, value in found[kind].items()}, flush=True)
        torch._dynamo.reset()
    return found


def _products(linears: dict[str, Linear], x: Tensor, wide: Tensor) -> tuple[Tensor, ...]:
    return tuple(linears[path](wide if path == "mlp.fc2" else x) for path in LINEARS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("prepare", "run"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: INT8 outputs only, as a trial")
    given = parser.parse_args()
    if given.what == "prepare":
        prepare(given.folder)
    else:
        run(given.folder, given.device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
