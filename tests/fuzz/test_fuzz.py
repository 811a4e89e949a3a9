"""A short run of the fuzzer: no reader has anything but the project's own errors for damaged files, in bounded time.

``python tests/fuzz/run.py --inputs 10000`` is the long one.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from harness import LIMIT_MIB, Target, fuzz
from mutation import damaged, damaged_json
from run import all_targets

from vggt_edge.devices.errors import InputError

INPUTS = 150
TARGETS = all_targets()


@pytest.mark.parametrize("target", TARGETS, ids=[target.name.replace(" ", "-") for target in TARGETS])
def test_damaged_files_are_read_or_refused(target: Target, tmp_path: Path) -> None:
    """Some inputs have to be accepted, so that the code behind the first check is reached."""
    count = fuzz(target, tmp_path / "fuzz", range(round(INPUTS * target.share)))
    assert not count.faults, "\n".join(
        f"{fault.kind}, input {fault.index}: {fault.detail}" for fault in count.faults.values()
    )
    assert count.taken
    assert count.refused


# --- the fuzzer itself ------------------------------------------------------------------------------------------------


def write_sound(folder: Path) -> None:
    (folder / "a").write_bytes(b"sound")


def target_of(read: object) -> Target:
    return Target(
        "test",
        write_sound,
        read,
        {"a": (damaged,)},
        (InputError,),
    )  # type: ignore[arg-type]


def reader(fails: Exception | None = None) -> object:
    """Takes what is sound; fails on everything else."""

    def read(folder: Path) -> None:
        if (folder / "a").read_bytes() != b"sound" and fails is not None:
            raise fails

    return read


def test_other_errors_are_faults(tmp_path: Path) -> None:
    """The fuzzer counts each kind, with the first input that showed the kind."""
    count = fuzz(target_of(reader(KeyError("x"))), tmp_path, range(20))
    assert (count.inputs, count.refused) == (20, 0)
    assert count.faulty == 20 - count.taken
    (fault,) = count.faults.values()
    assert fault.kind.startswith("KeyError at ")


def test_own_errors_are_refusals(tmp_path: Path) -> None:
    """They are what damage should lead to."""
    count = fuzz(target_of(reader(InputError("damaged"))), tmp_path, range(20))
    assert (count.faulty, count.refused) == (0, 20 - count.taken)


def test_endless_work_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit holds also where the reader catches everything that is an Exception."""
    monkeypatch.setattr("harness.LIMIT_S", 0.2)

    def read(folder: Path) -> None:
        while (folder / "a").read_bytes() != b"sound":
            try:
                sum(range(10_000))
            except Exception:
                continue

    count = fuzz(target_of(read), tmp_path, range(2))
    assert count.faulty == count.inputs - count.taken > 0
    assert next(iter(count.faults)).startswith("too slow")


def test_much_memory_is_a_fault(tmp_path: Path) -> None:
    """Memory that was taken and given back counts as well."""

    def read(folder: Path) -> None:
        if (folder / "a").read_bytes() != b"sound":
            bytearray(b"x") * ((LIMIT_MIB + 50) << 20)

    assert "too much memory" in fuzz(target_of(read), tmp_path, range(3)).faults


@pytest.mark.parametrize("mutate", [damaged, damaged_json])
def test_the_same_seed_gives_the_same_damage(mutate: object) -> None:
    """So that a fault can be repeated."""
    sound = b'{"a": [1, 2.5, "x"], "b": {"c": null}}'
    first, second = ([mutate(Random(seed), sound) for seed in range(50)] for _ in range(2))  # type: ignore[operator]
    assert first == second
    assert len(set(first)) > 40
