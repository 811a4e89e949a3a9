"""Finished steps of an export, cached under the digest of their inputs, so that a killed job goes on where it was."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from vggt_edge.devices.errors import UsageError

_MARKER = "vggt-edge-work"
_SHOWN_DIGITS = 16


def digest_of(inputs: Mapping[str, object]) -> str:
    """sha256 of the canonical JSON of what a step depends on."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def write_folder(out: Path, fill: Callable[[Path], None]) -> None:
    """A folder of artifacts, written aside and renamed in one step; a failure leaves nothing."""
    scratch = out.with_name(f".{out.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        fill(scratch)
        scratch.rename(out)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def place_tree(source: Path, target: Path) -> None:
    """Put the files of ``source`` into ``target`` without writing them again: hard links, copies where links fail."""
    shutil.copytree(source, target, dirs_exist_ok=True, copy_function=_link_or_copy)


def _link_or_copy(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def work_folder(output: Path) -> Path:
    """Where an export to ``output`` keeps its steps."""
    return output.with_name(output.name + ".work")


class StepCache:
    """The folder ``<output>.work`` beside the output; one sub-folder per finished step.

    A step is made in a folder of its own and renamed when complete: what lies under its final name is whole. Without
    ``resume`` an old work folder is thrown away.
    """

    def __init__(self, output: Path, *, resume: bool) -> None:
        self.root = work_folder(output)
        if self.root.exists() and not (self.root / _MARKER).is_file():
            raise UsageError(
                f"{self.root} is in the way: it is no work folder of vggt-edge",
                expected="that name to be free, or left by an interrupted export",
                remedy="remove it, or choose another -o",
            )
        self._resume = resume
        self._is_open = False

    def run(self, name: str, inputs: Mapping[str, object], make: Callable[[Path], None]) -> Path:
        """The folder that ``make`` fills for these inputs; an earlier, finished one is taken as it is."""
        self._open()
        folder = self._folder(name, inputs)
        if not folder.is_dir():
            write_folder(folder, make)
            shutil.rmtree(self._unfinished(folder), ignore_errors=True)
        return folder

    def unfinished(self, name: str, inputs: Mapping[str, object]) -> Path:
        """Where a long step keeps what it has done so far, to go on there after a kill; gone once ``run`` is done."""
        self._open()
        folder = self._unfinished(self._folder(name, inputs))
        folder.mkdir(exist_ok=True)
        return folder

    def _folder(self, name: str, inputs: Mapping[str, object]) -> Path:
        return self.root / f"{name}-{digest_of(inputs)[:_SHOWN_DIGITS]}"

    @staticmethod
    def _unfinished(folder: Path) -> Path:
        return folder.with_name(f"{folder.name}.unfinished")

    def _open(self) -> None:
        """Sweep what is not to be used, once, before the first step: looking alone changes nothing."""
        if self._is_open:
            return
        self._is_open = True
        if not self._resume:
            self.clear()
        for scratch in self.root.glob(".*.partial"):  # what a killed run was in the middle of
            shutil.rmtree(scratch, ignore_errors=True)
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / _MARKER).touch()

    def clear(self) -> None:
        """Forget every step."""
        shutil.rmtree(self.root, ignore_errors=True)
