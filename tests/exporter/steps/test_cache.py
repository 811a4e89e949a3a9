"""Steps are made once per inputs, whole or not at all, and only our own work folder is ever thrown away."""

from __future__ import annotations

from pathlib import Path

import pytest

from vggt_edge.devices.errors import UsageError
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
    with pytest.raises(UsageError, match="in the way"):
        StepCache(tmp_path / "out", resume=False)


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
