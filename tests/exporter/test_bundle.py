"""Bundles appear whole or not at all, and say when they are no longer what was exported."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vggt_edge.devices.errors import InputError, ResourceError, UsageError
from vggt_edge.exporter.bundle import (
    FileEntry,
    Manifest,
    ManifestInputs,
    bundle_problems,
    device_results,
    read_manifest,
    read_measured,
    tool_versions,
    verify_bundle,
    write_bundle,
)
from vggt_edge.exporter.device_result import DeviceResult
from vggt_edge.exporter.machine.usage import Measured, Timing
from vggt_edge.exporter.steps.cache import StepCache, place_tree

INPUTS = ManifestInputs(
    model="vggt-mini",
    target="orin-nano-8gb",
    digests={"model": "aa", "scenes": "bb", "plan": "cc", "stats": "dd"},
    tools={"torch": "2.13.0"},
    random_weights="seed 0",
)
MEASURED = Measured(
    5, (Timing("calibrate", 12.5, 9.25), Timing("annotate", 3.0, 0.0)), {"tensorrt": {"run": {"s": 1.5}}}
)


def assemble(folder: Path) -> None:
    (folder / "plan.json").write_text("{}\n")
    (folder / "measured.json").write_text(MEASURED.to_json())
    (folder / "tensorrt").mkdir()
    (folder / "tensorrt" / "model.onnx.data").write_bytes(b"\0" * 1000)


def write(out: Path, assemble: Callable[[Path], None], inputs: ManifestInputs = INPUTS) -> Manifest:
    """A bundle, as an export writes it: the steps are forgotten once it is there."""
    cache = StepCache(out, resume=True)
    manifest = write_bundle(cache, assemble, inputs)
    cache.clear()
    return manifest


def problems_of(bundle: Path) -> list[str]:
    return bundle_problems(bundle, read_manifest(bundle))


def left_behind(folder: Path) -> list[str]:
    """What lies below a folder, but for the mark of a work folder that a resumed job would use."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != "vggt-edge-work")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write(tmp_path / "out", assemble, INPUTS)
    return tmp_path / "out"


class TestWriting:
    def test_manifest_holds_every_file_but_what_was_measured_and_all_that_was_given(self, bundle: Path) -> None:
        manifest = read_manifest(bundle)
        assert manifest.files == (
            FileEntry("plan.json", 3, hashlib.sha256(b"{}\n").hexdigest()),
            FileEntry("tensorrt/model.onnx.data", 1000, hashlib.sha256(b"\0" * 1000).hexdigest()),
        )
        assert manifest.size_bytes == 1003
        assert (manifest.random_weights, manifest.digests) == ("seed 0", INPUTS.digests)
        assert read_measured(bundle) == MEASURED
        assert sorted(path.name for path in bundle.parent.iterdir()) == ["out"]

    def test_finished_files_are_linked_and_outlive_the_work_folder(self, tmp_path: Path) -> None:
        work = tmp_path / "steps" / "lower"
        work.mkdir(parents=True)
        assemble(work)
        write(tmp_path / "out", lambda folder: place_tree(work, folder), INPUTS)
        weights = "tensorrt/model.onnx.data"
        assert (tmp_path / "out" / weights).samefile(work / weights)
        shutil.rmtree(work.parent)
        assert problems_of(tmp_path / "out") == []

    def test_parents_are_made(self, tmp_path: Path) -> None:
        write(tmp_path / "runs" / "first" / "out", assemble, INPUTS)
        assert problems_of(tmp_path / "runs" / "first" / "out") == []

    def test_same_content_gives_the_same_manifest_whatever_was_measured(self, bundle: Path) -> None:
        def assemble_slowly(folder: Path) -> None:
            assemble(folder)
            (folder / "measured.json").write_text(Measured(6).to_json())

        write(bundle.parent / "again", assemble_slowly, INPUTS)
        first, second = ((bundle.parent / name / "manifest.json").read_bytes() for name in ("out", "again"))
        assert first == second

    @pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
    def test_an_existing_output_is_never_touched(self, tmp_path: Path, kind: str) -> None:
        out = tmp_path / "out"
        make: dict[str, Callable[[], object]] = {
            "file": out.touch,
            "folder": out.mkdir,
            "dangling link": lambda: out.symlink_to("nowhere"),
        }
        make[kind]()
        with pytest.raises(UsageError, match="exists already") as caught:
            write(out, pytest.fail, INPUTS)
        assert "-o" in caught.value.remedy
        assert left_behind(tmp_path) == (["out"] if kind == "file" else [])

    def test_an_output_that_appears_meanwhile_is_kept(self, tmp_path: Path) -> None:
        def assemble_slowly(folder: Path) -> None:
            assemble(folder)
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "theirs").touch()

        with pytest.raises(UsageError, match="exists already"):
            write(tmp_path / "out", assemble_slowly, INPUTS)
        assert left_behind(tmp_path) == ["theirs"]

    @pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
    def test_an_interrupted_assembly_leaves_nothing(self, tmp_path: Path, error: BaseException) -> None:
        def fail(folder: Path) -> None:
            assemble(folder)
            raise error

        with pytest.raises(type(error)):
            write(tmp_path / "runs" / "out", fail, INPUTS)
        assert left_behind(tmp_path) == []
        assert not (tmp_path / "out").exists()

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's always full device")
    def test_full_disk(self, tmp_path: Path) -> None:
        def fill(folder: Path) -> None:
            assemble(folder)
            with Path("/dev/full").open("wb", buffering=0) as file:
                file.write(b"weights")

        with pytest.raises(ResourceError, match="no room") as caught:
            write(tmp_path / "out", fill, INPUTS)
        assert caught.value.exit_code == 7
        assert left_behind(tmp_path) == []
        assert not (tmp_path / "out").exists()

    def test_full_disk_in_the_words_of_a_native_writer(self, tmp_path: Path) -> None:
        def fill(folder: Path) -> None:
            raise RuntimeError("I/O error: No space left on device (os error 28)")

        with pytest.raises(ResourceError, match="no room"):
            write(tmp_path / "out", fill, INPUTS)

    def test_read_only_parent(self, read_only: Path) -> None:
        with pytest.raises(ResourceError, match="no right") as caught:
            write(read_only / "out", pytest.fail, INPUTS)
        assert str(read_only) in caught.value.where

    def test_links_are_not_bundled(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="plain files"):
            write(tmp_path / "out", lambda folder: (folder / "x").symlink_to("/etc/hostname"), INPUTS)
        assert left_behind(tmp_path) == []
        assert not (tmp_path / "out").exists()


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder that this process may not write, also where the tests run as root."""
    tmp_path.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield tmp_path
    finally:
        if root:
            os.seteuid(0)
        tmp_path.chmod(0o755)


class TestVerifying:
    def test_a_sound_bundle_gives_its_manifest(self, bundle: Path) -> None:
        assert problems_of(bundle) == []
        assert read_manifest(bundle).model == "vggt-mini"

    def test_an_export_of_which_files_are_missing_is_no_sound_bundle(self, bundle: Path) -> None:
        """Also where the manifest says nothing of them."""
        with pytest.raises(InputError, match=r"stats\.json: not in the manifest, but every bundle has it"):
            verify_bundle(bundle)

    @pytest.mark.parametrize("path", ["result.json", "tensorrt/result.json"])
    def test_what_a_device_said_belongs_to_the_bundle(self, bundle: Path, path: str) -> None:
        (bundle / path).write_text('{"status": "passed"}')
        assert problems_of(bundle) == []
        assert device_results(bundle) == (DeviceResult(path, "passed"),)

    @pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"status": 1}', b"\xff", b"[" * 100_000])
    def test_a_result_that_says_nothing_is_named(self, bundle: Path, content: bytes) -> None:
        (bundle / "result.json").write_bytes(content)
        with pytest.raises(InputError) as caught:
            device_results(bundle)
        assert caught.value.where == str(bundle / "result.json")

    @pytest.mark.parametrize("kind", ["pipe", "device"])
    def test_nothing_is_read_that_never_ends(self, bundle: Path, kind: str) -> None:
        for name in ("manifest.json", "result.json", "measured.json"):
            path = bundle / name
            path.unlink(missing_ok=True)
            if kind == "pipe":
                os.mkfifo(path)
            else:
                path.symlink_to("/dev/zero")
        with pytest.raises(InputError, match="plain file"):
            verify_bundle(bundle)

    def test_every_difference_is_named(self, bundle: Path) -> None:
        (bundle / "plan.json").write_text("[]\n")
        (bundle / "tensorrt" / "model.onnx.data").unlink()
        (bundle / "tensorrt" / "extra.bin").touch()
        assert problems_of(bundle) == [
            "plan.json: has changed (sha256 differs)",
            "tensorrt/model.onnx.data: is missing",
            "tensorrt/extra.bin: not in the manifest",
        ]
        with pytest.raises(InputError, match=r"extra\.bin"):
            verify_bundle(bundle)

    def test_a_cut_file_says_its_size(self, bundle: Path) -> None:
        (bundle / "tensorrt" / "model.onnx.data").write_bytes(b"\0" * 999)
        assert problems_of(bundle) == ["tensorrt/model.onnx.data: has 999 bytes instead of 1000"]

    def test_a_link_is_not_followed_even_to_equal_content(self, bundle: Path, tmp_path: Path) -> None:
        (bundle / "tensorrt").rename(tmp_path / "elsewhere")
        (bundle / "tensorrt").symlink_to(tmp_path / "elsewhere")
        assert "tensorrt/model.onnx.data: is a link, or lies behind one" in problems_of(bundle)

    def test_a_name_that_no_file_can_have_is_a_problem(self, bundle: Path) -> None:
        rewrite(bundle, lambda raw: raw["files"][0].update(path="9" * 300))
        assert f"{'9' * 300}: cannot be read: File name too long" in problems_of(bundle)

    @pytest.mark.parametrize("name", ["/etc/passwd", "../secret", "a/../../b", "a\\..\\b", "C:/x", "", "a//b", "./a"])
    def test_a_hostile_path_is_refused_before_anything_is_read(self, bundle: Path, name: str) -> None:
        rewrite(bundle, lambda raw: raw["files"][0].update(path=name))
        with pytest.raises(InputError, match="not a plain path"):
            problems_of(bundle)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda raw: raw.update(schema_version=1),
            lambda raw: raw.pop("digests"),
            lambda raw: raw.update(surprise=1),
            lambda raw: raw["files"].append(raw["files"][0]),
            lambda raw: raw["files"][0].update(sha256="0"),
            lambda raw: raw["files"][0].update(size_bytes=-1),
            lambda raw: raw.update(tools=["torch"]),
            lambda raw: raw.update(random_weights=None),
            lambda raw: raw["files"][0].update(path="measured.json"),
        ],
    )
    def test_a_wrong_manifest_names_its_file(self, bundle: Path, damage: Callable[[dict[str, object]], object]) -> None:
        rewrite(bundle, damage)
        with pytest.raises(InputError) as caught:
            problems_of(bundle)
        assert caught.value.where == str(bundle / "manifest.json")

    def test_a_wrong_field_of_a_manifest_is_named(self, bundle: Path) -> None:
        rewrite(bundle, lambda raw: raw["files"][0].update(size_bytes="1 kB"))  # type: ignore[index]
        with pytest.raises(InputError, match=r"files\.0\.size_bytes: Input should be a valid integer"):
            problems_of(bundle)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda raw: raw.update(timings=3),
            lambda raw: raw["timings"][0].pop("seconds"),
            lambda raw: raw["timings"][0].update(surprise=1),
            lambda raw: raw["timings"][0].update(seconds=-1),
            lambda raw: raw["timings"][0].update(seconds=float("nan")),
            lambda raw: raw["timings"][0].update(forward_seconds="2"),
            lambda raw: raw.update(peak_memory_bytes=-1),
            lambda raw: raw.update(checks={"tensorrt": 3}),
        ],
    )
    def test_what_was_measured_is_read_strictly(
        self, bundle: Path, damage: Callable[[dict[str, object]], object]
    ) -> None:
        rewrite(bundle, damage, "measured.json")
        with pytest.raises(InputError) as caught:
            verify_bundle(bundle)
        assert caught.value.where == str(bundle / "measured.json")

    def test_nothing_depends_on_what_was_measured(self, bundle: Path) -> None:
        (bundle / "measured.json").unlink()
        assert read_measured(bundle) is None
        assert problems_of(bundle) == []

    @pytest.mark.parametrize("content", [None, b"\xff\xfe", b"[", b"[]", b"null"])
    def test_no_manifest_or_none_worth_the_name(self, bundle: Path, content: bytes | None) -> None:
        (bundle / "manifest.json").unlink()
        if content is not None:
            (bundle / "manifest.json").write_bytes(content)
        with pytest.raises(InputError, match="manifest"):
            verify_bundle(bundle)


def rewrite(bundle: Path, damage: Callable[[dict[str, object]], object], name: str = "manifest.json") -> None:
    path = bundle / name
    raw = json.loads(path.read_text())
    damage(raw)
    path.write_text(json.dumps(raw))


@given(
    st.lists(st.text("ab./_-", min_size=1, max_size=6), unique=True, max_size=4),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
)
def test_manifests_round_trip_or_are_refused(names: list[str], tools: dict[str, str]) -> None:
    files = tuple(FileEntry(name, 1, "0" * 64) for name in names)
    manifest = Manifest("m", "t", {}, tools, files)
    try:
        back = Manifest.from_json(manifest.to_json())
    except InputError:
        assert any(set(name.split("/")) & {"", ".", ".."} for name in names)
    else:
        assert back == manifest


def test_versions_of_tools_that_are_there() -> None:
    versions = tool_versions(["torch", "no-such-distribution"])
    assert list(versions) == ["torch"]
    assert versions["torch"].startswith("2.")
