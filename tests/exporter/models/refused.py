"""Every kind of checkpoint that is refused, with its message: ``refused.py --write`` makes docs/models/refused.md anew.

A case makes an input for ``--model`` in a folder of its own; it is opened and built as a command does. The tiny VGGT of
``tiny/vggt.py`` is what most of them start from. Refusals of the hub need a server: ``test_hub.py`` has them.
"""

from __future__ import annotations

import argparse
import json
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vggt_edge.devices.errors import VggtEdgeError
from vggt_edge.exporter.models.architectures import architectures
from vggt_edge.exporter.models.checkpoint import CONFIG_KEY, build_model
from vggt_edge.exporter.models.registry import open_model
from vggt_edge.runtimes.common.kit import script_module

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "models" / "refused.md"
BEGIN, END = "<!-- refused:begin -->", "<!-- refused:end -->"
LAYER = "aggregator.frame_blocks.0.mlp.fc1.weight"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 5030000000\n"

State = dict[str, Tensor]
Make = Callable[[Path, State], Path]
tiny = script_module(Path(__file__).parent / "tiny" / "vggt.py", "tiny.vggt")
CASES: dict[str, tuple[Make, tuple[str, ...] | None]] = {}


@cache
def tiny_state() -> State:
    one = architectures()["vggt"]
    state = one.build(tiny.CONFIG, one.shape(1, 28, 28), one.heads).state_dict()
    return {name: tiny.drawn(name, like).float() for name, like in state.items()}


def case(title: str, heads: tuple[str, ...] | None = None) -> Callable[[Make], Make]:
    """Register a kind of input. heads: what ``--outputs`` asks for."""

    def register(make: Make) -> Make:
        CASES[title] = make, heads
        return make

    return register


def saved(folder: Path, state: State, name: str = "model.safetensors", config: str | None = None) -> Path:
    """The tensors with the sizes of the tiny VGGT, or others, in the metadata."""
    one = architectures()["vggt"]
    save_file(state, folder / name, {CONFIG_KEY: config or one.write_config(tiny.CONFIG)})
    return folder / name


# --- no checkpoint ----------------------------------------------------------------------------------------------------


@case("a path where nothing is")
def missing(folder: Path, state: State) -> Path:
    return folder / "model.pt"


@case("a folder without a checkpoint")
def empty_folder(folder: Path, state: State) -> Path:
    return folder


@case("a folder with two files that may be it")
def two_files(folder: Path, state: State) -> Path:
    saved(folder, state, "a.safetensors")
    return saved(folder, state, "b.safetensors").parent


@case("a Git LFS pointer")
def lfs_pointer(folder: Path, state: State) -> Path:
    (folder / "model.safetensors").write_text(POINTER)
    return folder / "model.safetensors"


@case("a download that broke off")
def broken_off(folder: Path, state: State) -> Path:
    path = saved(folder, state)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@case("a text file named .safetensors")
def text_file(folder: Path, state: State) -> Path:
    (folder / "model.safetensors").write_text("<!DOCTYPE html><title>404</title>")
    return folder / "model.safetensors"


@case("one of several shards, without the index")
def lone_shard(folder: Path, state: State) -> Path:
    return saved(folder, state, "model-00001-of-00002.safetensors")


@case("an index whose shards are missing")
def missing_shards(folder: Path, state: State) -> Path:
    index = {"weight_map": dict.fromkeys(state, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder / "model.safetensors.index.json"


# --- PyTorch files ----------------------------------------------------------------------------------------------------


@case("a pickled module")
def pickled_module(folder: Path, state: State) -> Path:
    torch.save(nn.Linear(2, 2), folder / "model.pt")
    return folder / "model.pt"


@case("a training checkpoint with an argparse.Namespace")
def pickled_arguments(folder: Path, state: State) -> Path:
    torch.save({"model": state, "args": Namespace(lr=1e-4)}, folder / "train.pt")
    return folder / "train.pt"


@case("a PyTorch file without tensors")
def no_state_dict(folder: Path, state: State) -> Path:
    torch.save({"model": {"epoch": 3}}, folder / "model.pt")
    return folder / "model.pt"


@case("an optimizer alone")
def optimizer(folder: Path, state: State) -> Path:
    torch.save({"state": {}, "param_groups": []}, folder / "optimizer.pt")
    return folder / "optimizer.pt"


# --- tensors of no model that is known --------------------------------------------------------------------------------


@case("LoRA deltas that are not merged")
def lora(folder: Path, state: State) -> Path:
    deltas = {f"{LAYER.removesuffix('.weight')}.lora_{side}.weight": torch.ones(2, 2) for side in "AB"}
    return saved(folder, state | deltas)


@case("FP8 weights with scales beside them")
def scaled_fp8(folder: Path, state: State) -> Path:
    return saved(folder, state | {LAYER: state[LAYER].to(torch.float8_e4m3fn), f"{LAYER}_scale": torch.ones(1)})


@case("tensors that fit no architecture")
def unknown(folder: Path, state: State) -> Path:
    return saved(folder, {"backbone.stem.weight": torch.ones(2), "decoder.weight": torch.ones(2)})


@case("one tensor short of an architecture")
def nearest(folder: Path, state: State) -> Path:
    return saved(folder, {name: tensor for name, tensor in state.items() if name != "aggregator.register_token"})


@case("two models in one file")
def two_models(folder: Path, state: State) -> Path:
    return saved(folder, state | {name: torch.ones(1) for name in architectures()["depth_anything_3"].keys})


# --- a known model, but not as it has to be ---------------------------------------------------------------------------


@case("sizes in the metadata that are not those of the weights")
def wrong_config(folder: Path, state: State) -> Path:
    other = replace(tiny.CONFIG, name="other", embed_dim=64, depth=6, taps=(0, 1, 2, 5))
    return saved(folder, state, config=architectures()["vggt"].write_config(other))


@case("metadata that are no sizes")
def no_config(folder: Path, state: State) -> Path:
    return saved(folder, state, config='{"name": "tiny", "wings": 2}')


@case("another size, which nothing says")
def untold_size(folder: Path, state: State) -> Path:
    save_file(state, folder / "model.safetensors")
    return folder / "model.safetensors"


@case("Depth Anything 3 of a size that is not supported")
def unsupported_size(folder: Path, state: State) -> Path:
    giant = {name: torch.ones(1, 1, 1536) for name in architectures()["depth_anything_3"].keys}
    save_file(giant, folder / "model.safetensors")
    return folder / "model.safetensors"


@case("Pi3X, the successor of Pi3")
def pi3x(folder: Path, state: State) -> Path:
    names = (*architectures()["pi3"].keys, "metric_token")
    save_file({name: torch.ones(1, 1, 1024) for name in names}, folder / "model.safetensors")
    return folder / "model.safetensors"


@case("missing tensors")
def missing_tensors(folder: Path, state: State) -> Path:
    return saved(folder, {name: tensor for name, tensor in state.items() if "frame_blocks.1.mlp" not in name})


@case("a tensor that is not of the model")
def unexpected_tensor(folder: Path, state: State) -> Path:
    return saved(folder, state | {"aggregator.adapter.weight": torch.ones(2)})


@case("a head that was asked for and is not there", heads=("depth", "points"))
def missing_head(folder: Path, state: State) -> Path:
    return saved(folder, {name: tensor for name, tensor in state.items() if not name.startswith("point_head.")})


@case("another normalisation of images")
def other_normalisation(folder: Path, state: State) -> Path:
    return saved(folder, state | {"aggregator._resnet_mean": torch.full((1, 1, 3, 1, 1), 0.5)})


@case("weights that are NaN")
def not_finite(folder: Path, state: State) -> Path:
    return saved(folder, state | {LAYER: torch.full_like(state[LAYER], torch.nan)})


@case("integers in place of weights")
def integers(folder: Path, state: State) -> Path:
    return saved(folder, state | {LAYER: state[LAYER].to(torch.int8)})


# --- the table --------------------------------------------------------------------------------------------------------


def refusal(title: str) -> VggtEdgeError:
    """What ``export --model`` answers; ``AssertionError`` for an input that is accepted."""
    make, heads = CASES[title]
    with TemporaryDirectory(prefix="vggt-edge-refused-") as name:
        given = make(Path(name), dict(tiny_state()))
        try:
            checkpoint = open_model(str(given))
            build_model(checkpoint, checkpoint.architecture.shape(1, 28, 28), checkpoint.heads(heads))
        except VggtEdgeError as error:
            fields = {key: text.replace(name, "FOLDER") for key, text in error.fields.items()}
            return VggtEdgeError.of(fields)
    raise AssertionError(f"accepted: {title}")


@cache
def rows() -> tuple[tuple[str, str, str, str], ...]:
    """Title, message, advice and exit code of every case."""
    answers = ((title, refusal(title)) for title in CASES)
    return tuple((title, error.what, error.remedy, str(error.exit_code)) for title, error in answers)


def section() -> str:
    lines = [("`--model` is", "message", "what to do", "exit code"), ("---",) * 4, *rows()]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def written(text: str) -> str:
    """The document with the table of now."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{section()}\n{END}{rest.partition(END)[2]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the table into docs/models/refused.md")
    if parser.parse_args().write:
        DOCUMENT.write_text(written(DOCUMENT.read_text()))
    else:
        print(section())
    return 0


if __name__ == "__main__":
    sys.exit(main())
