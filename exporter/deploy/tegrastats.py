"""What tegrastats prints on a Jetson while the kit runs: memory, temperatures, power of the rails."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

COMMAND = ("tegrastats", "--interval", "500")
_RAM = re.compile(r"\bRAM (\d{1,9})/(\d{1,9})MB")
_GPU = re.compile(r"\bGR3D_FREQ (\d{1,3})%")
_HEAT = re.compile(r"\b([A-Za-z][A-Za-z0-9_]*)@(-?\d{1,4}(?:\.\d{1,3})?)C\b")
_POWER = re.compile(r"\b([A-Z][A-Z0-9_]*) (\d{1,7})mW/\d{1,7}mW")
_NO_SENSOR_C = -200.0  # a rail that is off reports -256
_MOST_NAMES = 64


@dataclass(frozen=True)
class Telemetry:
    """Highest figures of a run, and the mean power.

    - samples: lines that were read.
    - ram_bytes, ram_total_bytes: memory in use by all programs, CPU and GPU together.
    - gpu_percent: load of the GPU.
    - celsius: by sensor.
    - milliwatts, mean_milliwatts: by rail.
    """

    samples: int
    ram_bytes: int
    ram_total_bytes: int
    gpu_percent: int
    celsius: Mapping[str, float]
    milliwatts: Mapping[str, int]
    mean_milliwatts: Mapping[str, float]

    @property
    def hottest(self) -> tuple[str, float] | None:
        """Sensor and temperature; None where there is no sensor."""
        return max(self.celsius.items(), key=lambda entry: entry[1], default=None)


@dataclass
class Recorder:
    """Takes lines as they come, and keeps no more of them than the figures."""

    samples: int = 0
    ram: tuple[int, int] = (0, 0)
    gpu: int = 0
    celsius: dict[str, float] = field(default_factory=dict)
    highest: dict[str, int] = field(default_factory=dict)
    total: dict[str, int] = field(default_factory=dict)

    def add(self, line: str) -> None:
        """A line that says nothing is ignored."""
        if (ram := _RAM.search(line)) is None:
            return
        self.samples += 1
        self.ram = max(self.ram, (int(ram[1]), int(ram[2])))
        if load := _GPU.search(line):
            self.gpu = max(self.gpu, int(load[1]))
        for name, text in _HEAT.findall(line)[:_MOST_NAMES]:
            if float(text) > _NO_SENSOR_C:
                self.celsius[name] = max(self.celsius.get(name, float(text)), float(text))
        for name, text in _POWER.findall(line)[:_MOST_NAMES]:
            self.highest[name] = max(self.highest.get(name, 0), int(text))
            self.total[name] = self.total.get(name, 0) + int(text)

    @property
    def telemetry(self) -> Telemetry | None:
        """None where nothing was read."""
        if not self.samples:
            return None
        return Telemetry(
            samples=self.samples,
            ram_bytes=self.ram[0] << 20,
            ram_total_bytes=self.ram[1] << 20,
            gpu_percent=self.gpu,
            celsius=dict(self.celsius),
            milliwatts=dict(self.highest),
            mean_milliwatts={name: total / self.samples for name, total in self.total.items()},
        )
