"""Finished steps of an export, cached under the digest of their inputs, so that a killed job goes on where it was."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from vggt_edge.devices.errors import UsageError, VggtEdgeError
from vggt_edge.exporter.machine.files import file_sha256, follow_umask, sync_file, sync_folder, sync_tree
from vggt_edge.exporter.machine.process import end_if_asked

_MARKER = "vggt-edge-work"
_SHOWN_DIGITS = 16
_OUTPUT = ".output.partial"
_TEMPORARY = ".temporary.partial"
_FULL_BYTES = 64 << 10  # less than this is left of a disk on which a write has failed


def digest_of(inputs: Mapping[str, object]) -> str:
    """sha256 of the canonical JSON of what a step depends on."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def place_tree(source: Path, target: Path, *, without: str = "") -> None:
    """Put the files of ``source`` into ``target`` without writing them again: hard links, copies where links fail.

    without: the name of a file that is left out.
    """
    shutil.copytree(
        source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(without), copy_function=_link_or_copy
    )


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

    A step is made in a folder of its own, forced to disk and renamed. A record beside it then holds the sha256 of each
    file: only what matches its record counts as finished. Without ``resume`` an old work folder is thrown away.
    on_note: gets one line when a step has to be made again.
    """

    def __init__(self, output: Path, *, resume: bool, on_note: Callable[[str], None] = lambda text: None) -> None:
        self.root = work_folder(output)
        if os.path.lexists(self.root) and not is_work_folder(self.root):
            raise UsageError(
                f"{self.root} is in the way: it is no work folder of vggt-edge",
                expected="that name to be free, or left by an interrupted export",
                remedy="remove it, or choose another -o",
            )
        self.output = output
        self._resume = resume
        self._note = on_note
        self._is_open = False
        self._known: set[Path] = set()

    def run(self, name: str, inputs: Mapping[str, object], make: Callable[[Path], None]) -> Path:
        """The folder that ``make`` fills for these inputs; an earlier one is taken when it is whole."""
        self._open()
        folder = self._folder(name, inputs)
        if not self._is_finished(folder):
            self._make(folder, make)
            shutil.rmtree(self._unfinished(folder), ignore_errors=True)
        return folder

    def unfinished(self, name: str, inputs: Mapping[str, object]) -> Path:
        """Where a long step keeps what it has done so far, to go on there after a kill; gone once ``run`` is done."""
        self._open()
        folder = self._unfinished(self._folder(name, inputs))
        folder.mkdir(exist_ok=True)
        return folder

    def publish(self, fill: Callable[[Path], None]) -> None:
        """Fill a folder inside the work folder, force it to disk, and rename it to the output in one step.

        Whatever goes wrong, the output does not exist and the folder is gone; a killed one is swept up by the next run.
        ``UsageError`` when the output has come to exist meanwhile.
        """
        self._open()
        check_free(self.output)
        scratch = self.root / _OUTPUT
        _filled(scratch, fill)
        try:
            check_free(self.output)
            scratch.rename(self.output)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        sync_folder(self.output.parent)

    @contextmanager
    def temporary_files(self) -> Iterator[None]:
        """Temporary files of this process and its children lie in the work folder meanwhile, and go with it.

        Whatever a library leaves behind, and whatever a killed process could not remove, is swept up there.
        """
        self._open()
        folder = self.root / _TEMPORARY
        folder.mkdir(exist_ok=True)
        before, variable = tempfile.tempdir, os.environ.get("TMPDIR")
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder.absolute())
        try:
            yield
        finally:
            tempfile.tempdir = before
            os.environ.pop("TMPDIR")
            if variable is not None:
                os.environ["TMPDIR"] = variable
            shutil.rmtree(folder, ignore_errors=True)

    def clear(self) -> None:
        """Forget every step; the mark goes last, so that what a kill leaves is known for a work folder."""
        for path in self.root.glob("*"):
            if path.name != _MARKER:
                _remove(path)
        shutil.rmtree(self.root, ignore_errors=True)

    def _folder(self, name: str, inputs: Mapping[str, object]) -> Path:
        return self.root / f"{name}-{digest_of(inputs)[:_SHOWN_DIGITS]}"

    @staticmethod
    def _unfinished(folder: Path) -> Path:
        return folder.with_name(f"{folder.name}.unfinished")

    @staticmethod
    def _record(folder: Path) -> Path:
        return folder.with_name(f"{folder.name}.sha256.json")

    def _make(self, folder: Path, make: Callable[[Path], None]) -> None:
        """``make`` once more from the start, should what an interrupted run left of the step be unreadable."""
        went_on = self._unfinished(folder).is_dir()
        try:
            self._make_once(folder, make)
        except Exception as error:
            end_if_asked()
            if not went_on or not _may_be_damage(error):
                raise
            self._note(f"{folder.name}: what an earlier run left of it cannot be read; starting over")
            shutil.rmtree(self._unfinished(folder), ignore_errors=True)
            self._make_once(folder, make)

    def _make_once(self, folder: Path, make: Callable[[Path], None]) -> None:
        scratch = folder.with_name(f".{folder.name}.partial")
        _filled(scratch, make)
        end_if_asked()  # what a library made of a signal is no result
        digests = json.dumps(_digests(scratch), indent=1, sort_keys=True)
        scratch.rename(folder)
        sync_folder(self.root)
        record = self._record(folder)
        record.write_text(digests)
        sync_file(record)
        sync_folder(self.root)
        self._known.add(folder)

    def _is_finished(self, folder: Path) -> bool:
        if folder in self._known:
            return True
        record = self._record(folder)
        if folder.is_dir() and record.is_file():
            if _is_whole(folder, record):
                self._known.add(folder)
                return True
            self._note(f"{folder.name}: its files have changed since they were written; making them again")
        shutil.rmtree(folder, ignore_errors=True)
        record.unlink(missing_ok=True)
        return False

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


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def check_free(output: Path) -> None:
    """``UsageError`` when something has the output's name already, a dangling link included."""
    if os.path.lexists(output):
        raise UsageError(
            f"{output} exists already",
            where=str(output),
            expected="an output that does not exist: nothing is written over",
            remedy="remove it, or choose another -o",
        )


def is_work_folder(folder: Path) -> bool:
    """Whether an export made this folder for its steps; an empty one is as good."""
    return (folder / _MARKER).is_file() or (folder.is_dir() and not any(folder.iterdir()))


def _filled(scratch: Path, fill: Callable[[Path], None]) -> None:
    """A new folder with what ``fill`` puts into it, on disk; a failure leaves nothing.

    ``OSError`` where the disk is full, whatever a library made of that: torch calls it an unexpected position.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        fill(scratch)
        for path in scratch.rglob("*"):
            if path.is_file() and not path.is_symlink():
                follow_umask(path)
        sync_tree(scratch)
    except BaseException as error:
        is_full = shutil.disk_usage(scratch.parent).free < _FULL_BYTES
        shutil.rmtree(scratch, ignore_errors=True)
        if is_full and isinstance(error, Exception):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(scratch)) from error
        raise


def _digests(folder: Path) -> dict[str, str]:
    """sha256 by path relative to the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}


def _is_whole(folder: Path, record: Path) -> bool:
    try:
        return bool(json.loads(record.read_bytes()) == _digests(folder))
    except (OSError, ValueError):
        return False


def _may_be_damage(error: Exception) -> bool:
    """Whether a damaged file can be the cause. A full disk or a refused graph would only fail once more."""
    return not isinstance(error, OSError | MemoryError | VggtEdgeError) or isinstance(error, UsageError)
