"""``validate``: a bundle is judged again, opens nothing outside of itself, and says what it was judged on.

The command does so in a process of its own, within limits. What does not depend on that is tested in this process.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

from vggt_edge.devices.errors import AccuracyGateError, InputError, ResourceError, UnknownNameError
from vggt_edge.exporter import limited
from vggt_edge.exporter.machine.progress import SilentProgress
from vggt_edge.exporter.models.registry import MINI_WEIGHTS
from vggt_edge.exporter.rerun import ONE_SCENE, inside_white, validate
from vggt_edge.runtimes.common.kit import script_module

pytestmark = pytest.mark.slow

photographs = script_module(Path(__file__).with_name("pictures.py"), "pictures").photographs
Run = Callable[..., Any]
SMALL = ("--target", "host-cpu", "--frames", "2", "--resolution", "28", "--outputs", "camera", "--precision", "w8a16")
SMALL = (*SMALL, "--effort", "none", "--sensitivity", "probe", "--calibration-scenes", "2")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the embedded model, judged on one synthetic room."""
    from vggt_edge.exporter.cli import main

    out = tmp_path_factory.mktemp("rerun") / "out"
    assert main(["export", *SMALL, "--validation-scenes", "1", "-o", str(out), "--log-level", "error"]) == 0
    return out


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def write_into(bundle: Path, name: str, content: bytes) -> None:
    """Change a file of a bundle as somebody does who knows the format: the manifest agrees with it."""
    path, manifest = bundle / name, bundle / "manifest.json"
    path.write_bytes(content)
    document = json.loads(manifest.read_text())
    (entry,) = (one for one in document["files"] if one["path"] == name)
    entry |= {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest.write_text(json.dumps(document))


def set_in(bundle: Path, **settings: str) -> None:
    """Change the configuration of a bundle."""
    name = "resolved.toml"
    lines = [line for line in (bundle / name).read_text().splitlines() if line.partition(" =")[0] not in settings]
    lines += [f"{key} = {value}" for key, value in settings.items()]
    write_into(bundle, name, ("\n".join(lines) + "\n").encode())


class Notes(SilentProgress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def notes_of(bundle: Path, **options: Any) -> str:
    """The words of a validation, whatever it finds."""
    notes = Notes()
    with suppress(AccuracyGateError):
        validate(bundle, notes, **options)
    return "\n".join(notes.said)


def test_a_validation_says_what_was_judged_and_what_came_nearest_to_its_limit(vggt_edge: Run, bundle: Path) -> None:
    finished = vggt_edge("validate", bundle)
    assert finished.code == 0, finished.err
    lines = dict(line.split("  ", 1) for line in finished.out.splitlines())
    assert lines["status"].strip() == "passed"
    assert lines["scenes"].strip().startswith("1: room-")
    assert "pose_enc" in lines["onnxruntime"]
    assert "limit" in lines["onnxruntime"]
    assert len(finished.out.splitlines()) <= 8


class OpenedError(BaseException):
    """Something was fetched or read that only the bundle had named."""


@pytest.mark.parametrize("model", ["attacker/evil-model", "{outside}/weights.safetensors", "../weights.safetensors"])
def test_a_bundle_downloads_nothing_and_opens_no_checkpoint_outside_of_itself(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    shutil.copy(MINI_WEIGHTS, bundle.parent / "weights.safetensors")
    set_in(bundle, model=json.dumps(model.format(outside=bundle.parent)), scenes='"/nonexistent"')

    def opened(*_: object, **__: object) -> None:
        raise OpenedError

    monkeypatch.setattr("vggt_edge.exporter.models.registry.from_hub", opened)
    monkeypatch.setattr("vggt_edge.exporter.models.registry.read_checkpoint", opened)
    with pytest.raises(InputError, match="does not hold the model") as refused:
        validate(bundle)
    assert "--model" in refused.value.remedy
    assert hashlib.sha256(MINI_WEIGHTS.read_bytes()).hexdigest() in refused.value.expected


def test_with_the_checkpoint_given_a_bundle_is_judged_on_the_scene_that_it_holds(vggt_edge: Run, bundle: Path) -> None:
    """A bundle whose configuration names scenes that nobody has."""
    shutil.copy(MINI_WEIGHTS, bundle.parent / "weights.safetensors")
    set_in(bundle, model='"attacker/evil-model"', scenes='"/nonexistent"')
    named = vggt_edge("validate", bundle, "--model", bundle.parent / "weights.safetensors", "--json")
    assert named.code == 0, named.err
    assert ONE_SCENE in named.err
    assert named.document["result"]["scenes"] == ["golden"]


def test_another_checkpoint_is_refused_by_its_digest(bundle: Path) -> None:
    content = bytearray(MINI_WEIGHTS.read_bytes())
    content[-1] ^= 1
    (bundle.parent / "other.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="is not the model that this bundle was made from"):
        validate(bundle, model=str(bundle.parent / "other.safetensors"))


def test_a_device_profile_outside_of_the_bundle_is_not_opened(bundle: Path) -> None:
    set_in(bundle, target='"/etc/passwd.toml"')
    with pytest.raises(UnknownNameError, match="unknown target"):
        validate(bundle)


@pytest.mark.parametrize("asked", [{"resolution": "140000"}, {"resolution": "[140000, 28]"}, {"frames": "1000000"}])
def test_a_configuration_that_asks_for_another_size_than_the_model_has_is_refused(
    bundle: Path, asked: dict[str, str]
) -> None:
    set_in(bundle, **asked)
    with pytest.raises(InputError, match="not those of the bundle's model"):
        validate(bundle)


def looping(onnx_file: Path, *, grows: bool) -> bytes:
    """A graph of the same inputs and outputs whose loop never ends. grows: each turn doubles a tensor."""
    model = onnx.load(onnx_file, load_external_data=False)
    (images,), outputs = model.graph.input, model.graph.output
    value = helper.make_tensor_value_info
    turn = helper.make_node("Concat" if grows else "Add", ["held", "held"], ["more"], **({"axis": 0} if grows else {}))
    body = helper.make_graph(
        [turn, helper.make_node("Identity", ["go_on"], ["still"])],
        "body",
        [value("turn", 7, ()), value("go_on", 9, ()), value("held", 1, None)],
        [value("still", 9, ()), value("more", 1, None)],
    )
    constants = {
        "yes": np.array(True),
        "first": np.zeros(1000, np.float32),
        "corner": np.zeros(1, np.int64),
        **{f"shape_{one.name}": np.array([side.dim_value for side in shape_of(one)]) for one in outputs},
    }
    nodes = [helper.make_node("Loop", ["", "yes", "first"], ["end"], body=body)]
    nodes += [
        helper.make_node("ReduceSum", ["end"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", [images.name], ["seen"], keepdims=0),
    ]
    nodes += [helper.make_node("Add", ["sum", "seen"], ["both"])]
    nodes += [helper.make_node("Expand", ["both", f"shape_{one.name}"], [one.name]) for one in outputs]
    initializers = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "endless", [images], outputs, initializers)
    opset = [helper.make_opsetid("", 21)]
    content: bytes = helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    return content


def shape_of(value: onnx.ValueInfoProto) -> Any:
    return value.type.tensor_type.shape.dim


def test_a_bundle_whose_graph_never_ends_is_ended(vggt_edge: Run, bundle: Path) -> None:
    write_into(bundle, "model.onnx", looping(bundle / "model.onnx", grows=False))
    ended = vggt_edge("validate", bundle, "--time-limit", "8", "--json")
    assert ended.code == 7, ended.err
    assert ended.document["error"]["what"] == "the validation did not end within 8.0 s"
    assert "--time-limit" in ended.document["error"]["remedy"]


def test_a_bundle_whose_graph_eats_the_memory_is_ended(bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing of the worker stays among the temporary files."""
    write_into(bundle, "model.onnx", looping(bundle / "model.onnx", grows=True))
    with pytest.raises(ResourceError, match=r"took more than 1\.5 GB|no memory") as refused:
        limited.validate(bundle, memory_limit_bytes=1_500_000_000)
    assert refused.value.exit_code == 7
    assert "validate: ONNX Runtime ..." in capfd.readouterr().err


@pytest.mark.parametrize("seconds", ["0", "-1", "nan"])
def test_a_time_limit_is_a_time(vggt_edge: Run, bundle: Path, seconds: str) -> None:
    refused = vggt_edge("validate", bundle, "--time-limit", seconds)
    assert refused.code == 2
    assert "--time-limit" in refused.err


def test_a_bundle_is_judged_on_other_pictures_and_tells_when_its_own_were_replaced(
    vggt_edge: Run, tmp_path: Path
) -> None:
    """The folder has a Latin-1 byte in its name, as old ZIP files leave it; the other pictures are upright."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    photographs(folder, 8)
    (folder / "more.heic").write_bytes(b"x")
    made = vggt_edge("export", *SMALL, "--scenes", folder, "-o", tmp_path / "out", "--json")
    assert made.code in (0, 4), made.err
    events = [json.loads(line) for line in made.err.splitlines() if line.startswith('{"event"')]
    notes = [event["text"] for event in events if event["event"] == "note"]
    assert notes.count("passed over in caf\\xe9: .heic files (not read): 1") == 1
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "passed over in caf\\xe9: .heic files (not read): 1" in page
    assert "caf\\xe9-03" in page
    upright = tmp_path / "upright"
    photographs(upright, 4, (48, 80))
    assert "has changed since" not in notes_of(tmp_path / "out", scenes=upright)
    assert ONE_SCENE in notes_of(tmp_path / "out")
    assert "has changed since" not in notes_of(tmp_path / "out", scenes=folder)
    for path in folder.glob("*.png"):
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    replaced = notes_of(tmp_path / "out", scenes=folder)
    assert "these are not the pictures that the bundle was judged on" in replaced


def test_the_golden_scene_of_a_padded_bundle_knows_its_white_borders() -> None:
    image = np.ones((3, 14, 28), np.float32)
    assert inside_white(image) == (0, 0, 28, 14)
    image[1, 3:9, 5] = image[0, 4, 20] = 0.5
    assert inside_white(image) == (5, 3, 21, 9)
