"""Steps are made once per inputs, whole or not at all, and only our own work folder is ever thrown away."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from vggt_edge.devices.errors import UsageError
from vggt_edge.exporter.cli import explain
from vggt_edge.exporter.models.registry import MINI_WEIGHTS
from vggt_edge.exporter.steps.cache import StepCache, digest_of


def run(cache: StepCache, key: int, text: str, calls: list[str]) -> str:
    def make(folder: Path) -> None:
        calls.append(text)
        (folder / "result").write_text(text)

    return (cache.run("step", {"key": key}, make) / "result").read_text()


def test_a_finished_step_is_taken_as_it_is_and_other_inputs_are_another_step(tmp_path: Path) -> None:
    calls: list[str] = []
    cache = StepCache(tmp_path / "out", resume=False)
    assert run(cache, 1, "a", calls) == "a"
    assert run(cache, 1, "b", calls) == "a"
    assert run(cache, 2, "c", calls) == "c"
    assert run(StepCache(tmp_path / "out", resume=True), 1, "d", calls) == "a"
    assert run(StepCache(tmp_path / "out", resume=False), 1, "e", calls) == "e"
    assert calls == ["a", "c", "e"]


def test_a_failed_step_leaves_nothing_and_a_killed_one_is_swept_up(tmp_path: Path) -> None:
    cache = StepCache(tmp_path / "out", resume=False)

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        cache.run("step", {}, fail)
    assert [path.name for path in cache.root.iterdir()] == ["vggt-edge-work"]
    (cache.root / ".step.dead.partial").mkdir()
    again = StepCache(tmp_path / "out", resume=True)
    assert (cache.root / ".step.dead.partial").exists()  # a dry run looks, and changes nothing
    again.unfinished("step", {})
    assert not (cache.root / ".step.dead.partial").exists()


def test_a_folder_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out.work").mkdir()
    (tmp_path / "out.work" / "theirs").touch()
    with pytest.raises(UsageError, match="in the way"):
        StepCache(tmp_path / "out", resume=False)


@pytest.mark.parametrize("left", [(), ("vggt-edge-work",)])
def test_what_a_kill_leaves_of_a_work_folder_that_was_being_removed_is_known(
    tmp_path: Path, left: tuple[str, ...]
) -> None:
    (tmp_path / "out.work").mkdir()
    for name in left:
        (tmp_path / "out.work" / name).touch()
    StepCache(tmp_path / "out", resume=True).clear()
    assert not (tmp_path / "out.work").exists()


def test_the_mark_of_a_work_folder_is_removed_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = StepCache(tmp_path / "out", resume=True)
    cache.run("step", {}, lambda folder: (folder / "file").touch())

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            cache.clear()
    StepCache(tmp_path / "out", resume=True).clear()
    assert not cache.root.exists()


def test_what_lies_beside_the_output_is_nobody_elses_to_remove(tmp_path: Path) -> None:
    """A foreign folder stays, also under the name that earlier versions wrote to."""
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "theirs").touch()
    cache = StepCache(tmp_path / "out", resume=False)
    cache.publish(lambda folder: (folder / "file").touch())
    cache.clear()
    assert (tmp_path / ".out.partial" / "theirs").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.partial", "out"]


def test_temporary_files_lie_in_the_work_folder_and_are_swept_after_a_kill(tmp_path: Path) -> None:
    cache = StepCache(tmp_path / "out", resume=True)
    before = tempfile.gettempdir(), os.environ.get("TMPDIR")
    with cache.temporary_files():
        assert Path(tempfile.mkdtemp()).is_relative_to(cache.root)
        assert Path(os.environ["TMPDIR"]).is_relative_to(cache.root)  # for the processes that a job starts
    assert (tempfile.gettempdir(), os.environ.get("TMPDIR")) == before
    (cache.root / ".temporary.partial" / "left").mkdir(parents=True)
    StepCache(tmp_path / "out", resume=True).unfinished("step", {})
    assert not (cache.root / ".temporary.partial").exists()


def test_digests_do_not_depend_on_the_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1}) != digest_of({"a": 2, "b": 1})


def test_what_a_killed_step_had_done_is_there_for_the_next_run_alone(tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def work(cache: StepCache, until: int) -> list[int]:
        """Counts in files, from what is there already."""
        found: list[int] = []

        def make(folder: Path) -> None:
            state = cache.unfinished("count", {"key": 1})
            found.extend(sorted(int(path.name) for path in state.iterdir()))
            for number in range(len(found), until):
                (state / str(number)).touch()
            if until < 4:
                raise KilledError
            (folder / "result").touch()

        cache.run("count", {"key": 1}, make)
        return found

    with pytest.raises(KilledError):
        work(StepCache(tmp_path / "out", resume=False), 2)
    resumed = StepCache(tmp_path / "out", resume=True)
    assert work(resumed, 4) == [0, 1]
    assert not list(resumed.root.glob("*.unfinished"))
    with pytest.raises(KilledError):
        work(StepCache(tmp_path / "out", resume=False), 2)
    assert work(StepCache(tmp_path / "out", resume=False), 4) == []


def finished(tmp_path: Path) -> Path:
    """The folder of one finished step with two files."""

    def make(folder: Path) -> None:
        (folder / "graph").write_bytes(b"graph")
        (folder / "weights").mkdir()
        (folder / "weights" / "data").write_bytes(bytes(1000))

    return StepCache(tmp_path / "out", resume=False).run("step", {}, make)


def cut(folder: Path) -> None:
    (folder / "weights" / "data").write_bytes(bytes(500))


def flip(folder: Path) -> None:
    (folder / "weights" / "data").write_bytes(bytes(999) + b"\1")


def lose_a_file(folder: Path) -> None:
    (folder / "graph").unlink()


def add_a_file(folder: Path) -> None:
    (folder / "more").touch()


def lose_the_record(folder: Path) -> None:
    folder.with_name(f"{folder.name}.sha256.json").unlink()


def spoil_the_record(folder: Path) -> None:
    folder.with_name(f"{folder.name}.sha256.json").write_bytes(b"{\xff")


@pytest.mark.parametrize("damage", [cut, flip, lose_a_file, add_a_file, lose_the_record, spoil_the_record])
def test_a_step_whose_files_have_changed_is_made_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """Else a bundle would get the damaged file, with a fresh digest of it in its manifest."""
    damage(finished(tmp_path))
    notes: list[str] = []

    def make(folder: Path) -> None:
        (folder / "graph").write_bytes(b"again")

    folder = StepCache(tmp_path / "out", resume=True, on_note=notes.append).run("step", {}, make)
    assert [path.name for path in folder.iterdir()] == ["graph"]
    assert (folder / "graph").read_bytes() == b"again"
    said = "making them again" in "".join(notes)
    assert said is (damage is not lose_the_record)  # without a record the step had simply not finished


def test_a_step_starts_over_when_what_is_left_of_it_cannot_be_read(tmp_path: Path) -> None:
    notes: list[str] = []
    cache = StepCache(tmp_path / "out", resume=True, on_note=notes.append)
    (cache.unfinished("step", {}) / "journal").write_text("cut in ha")

    def make(folder: Path) -> None:
        journal = cache.unfinished("step", {}) / "journal"
        if journal.exists():
            raise ValueError(journal.read_text())
        (folder / "result").touch()

    assert (cache.run("step", {}, make) / "result").is_file()
    assert "starting over" in notes[0]


def test_files_get_the_rights_of_the_umask(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        for name, mode in (("native", 0o600), ("script", 0o700)):
            (folder / name).touch()
            (folder / name).chmod(mode)

    previous = os.umask(0o027)
    try:
        folder = StepCache(tmp_path / "out", resume=False).run("step", {}, make)
    finally:
        os.umask(previous)
    assert [(folder / name).stat().st_mode & 0o777 for name in ("native", "script")] == [0o640, 0o740]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", str(place))
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this user may not mount")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: (folder / "a").write_bytes(bytes(2 << 20)),
        lambda folder: save_file({"a": np.zeros(1 << 19, np.float32)}, folder / "a"),
        lambda folder: torch.save(torch.zeros(1 << 19), folder / "a"),  # says nothing of a disk
        lambda folder: shutil.copy(MINI_WEIGHTS, folder / "a"),
    ],
    ids=["python", "safetensors", "torch", "copy"],
)
def test_a_disk_that_fills_ends_with_7_and_leaves_nothing_half_written(
    small_disk: Path, write: Callable[[Path], object]
) -> None:
    """``tests/benchmarks/full_disk.py`` fills it during whole exports."""
    cache = StepCache(small_disk / "out", resume=False)
    with pytest.raises(Exception) as raised:  # noqa: PT011  each library raises another class
        cache.run("step", {}, write)
    assert explain(raised.value).exit_code == 7
    with pytest.raises(Exception) as raised:  # noqa: PT011
        cache.publish(write)
    assert explain(raised.value).exit_code == 7
    assert [path.name for path in cache.root.iterdir()] == ["vggt-edge-work"]
    assert [path.name for path in small_disk.iterdir()] == ["out.work"]
