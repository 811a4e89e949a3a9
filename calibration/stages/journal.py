"""The running values of a walk: in memory up to a budget, all of them in files, so that a killed walk goes on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

JOURNAL = "journal.json"
MEMORY_BYTES = 1 << 30


class MemoryJournal:
    """Values in memory alone; for small models and tests."""

    def __init__(self) -> None:
        self.stages_done = 0
        self._values: dict[tuple[int, str], Tensor] = {}

    def get(self, scene: int, name: str) -> Tensor:
        """A running value of one scene."""
        return self._values[scene, name]

    def put(self, scene: int, name: str, value: Tensor) -> None:
        """Keep a running value of one scene."""
        self._values[scene, name] = value

    def finish(self, stages_done: int, dropped: Iterable[str]) -> None:
        """Note how many stages are done, and forget the values that no later stage reads."""
        self.stages_done = stages_done
        gone = set(dropped)
        self._values = {key: value for key, value in self._values.items() if key[1] not in gone}


class FileJournal:
    """Values in the files of one folder, and beside that in memory as long as they fit ``memory_bytes``.

    A value is written under a temporary name and renamed, and ``journal.json`` names the last finished stage: whatever
    moment a process is killed at, the folder holds all that the next stage reads. Power cuts are not covered.
    """

    def __init__(self, folder: Path, memory_bytes: int = MEMORY_BYTES) -> None:
        self.folder = folder
        self.memory_bytes = memory_bytes
        self._memory: dict[tuple[int, str], Tensor] = {}
        self._used_bytes = 0
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / JOURNAL
        self.stages_done = int(json.loads(path.read_text())["stages_done"]) if path.is_file() else 0

    def get(self, scene: int, name: str) -> Tensor:
        """A running value of one scene, from memory or from its file."""
        held = self._memory.get((scene, name))
        return load_file(self._path(scene, name))["value"] if held is None else held

    def put(self, scene: int, name: str, value: Tensor) -> None:
        """Write a running value of one scene, and keep it in memory while there is room."""
        value = value.detach().contiguous()
        path = self._path(scene, name)
        scratch = path.with_suffix(".partial")
        save_file({"value": value}, scratch)
        scratch.replace(path)
        self._forget(scene, name)
        if self._used_bytes + value.nbytes <= self.memory_bytes:
            # A copy, lest a view keep something larger alive.
            self._memory[scene, name] = value.clone()
            self._used_bytes += value.nbytes

    def finish(self, stages_done: int, dropped: Iterable[str]) -> None:
        """Note how many stages are done, and delete the values that no later stage reads."""
        scratch = self.folder / f"{JOURNAL}.partial"
        scratch.write_text(json.dumps({"stages_done": stages_done}))
        scratch.replace(self.folder / JOURNAL)
        self.stages_done = stages_done
        for name in dropped:
            for path in self.folder.glob(f"*.{name}.safetensors"):
                path.unlink()
            for scene, held in [key for key in self._memory if key[1] == name]:
                self._forget(scene, held)

    def _forget(self, scene: int, name: str) -> None:
        held = self._memory.pop((scene, name), None)
        self._used_bytes -= 0 if held is None else held.nbytes

    def _path(self, scene: int, name: str) -> Path:
        return self.folder / f"{scene:04}.{name}.safetensors"
