"""Where the build for 64-bit ARM lies, what of it is missing, and how it runs a program."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from vggt_edge.runtimes.base import Availability
from vggt_edge.runtimes.executorch.kit_files import library_version

NATIVE = Path(__file__).parent / "native"
COMPILER = "aarch64-linux-gnu-g++"
SYSROOT = Path("/usr/aarch64-linux-gnu")
QEMU = "qemu-aarch64"
# Older ones fail in torch's library, and compute SME wrong.
QEMU_MIN = (8, 1)
SETUP = "python -m vggt_edge.runtimes.executorch.arm.install"
# What the library says when ExecuTorch asks it whether the weights cache is on.
SWITCHED_ON = "weights cache: switched on"
# Feature of a profile to a processor of QEMU whose best kernels are those for the feature.
PROCESSORS = {"dotprod": "cortex-a76", "i8mm": "cortex-a710", "sme": "max"}


@dataclass(frozen=True)
class ArmBuild:
    """One version of ExecuTorch in a folder of its own.

    folder: holds ``lib`` with the libraries, ``run_program`` and ``cache_on.so``, and ``qemu`` where that of the system
    is too old.
    """

    version: str
    folder: Path

    @classmethod
    def of_android(cls) -> ArmBuild:
        """The version of Android's library, beside the packages of this Python."""
        version = library_version()
        return cls(version, Path(sys.prefix) / "runtimes" / f"executorch-{version}-arm")

    @property
    def libraries(self) -> Path:
        return self.folder / "lib"

    @property
    def runner(self) -> Path:
        return self.libraries / "run_program"

    @property
    def switch(self) -> Path:
        """The library that switches the weights cache on."""
        return self.libraries / "cache_on.so"

    @property
    def qemu(self) -> Path | None:
        """The first one that is new enough: the system's, or the one that ``install`` unpacked."""
        found = shutil.which(QEMU)
        choices = ([] if found is None else [Path(found)]) + [self.folder / "qemu" / "usr" / "bin" / QEMU]
        return next((one for one in choices if one.is_file() and qemu_version(one) >= QEMU_MIN), None)

    @property
    def emulator(self) -> str:
        """Such as ``QEMU 10.0.13``; without a version where it is missing."""
        return "QEMU" if self.qemu is None else f"QEMU {'.'.join(map(str, qemu_version(self.qemu)))}"

    @property
    def how(self) -> str:
        """For readers of a report: version, options and emulator."""
        return f"ExecuTorch {self.version} for 64-bit ARM (PyPI's build, weights cache on) under {self.emulator}"

    def availability(self) -> Availability:
        if sys.platform != "linux" or platform.machine() != "x86_64":
            return Availability(False, "made for Linux on x86-64", "export there, or check on a device with the kit")
        if not self.runner.is_file() or self.qemu is None:
            return Availability(False, f"ExecuTorch {self.version} for 64-bit ARM is not set up", SETUP)
        if not SYSROOT.is_dir():
            return Availability(False, f"{SYSROOT} is missing", "apt-get install g++-aarch64-linux-gnu")
        return Availability(True)

    def command(self, processor: str, *arguments: str) -> list[str]:
        """Of the runner with these arguments, the weights cache on."""
        environment = {"LD_LIBRARY_PATH": f"{self.libraries}:{SYSROOT / 'lib'}", "LD_PRELOAD": str(self.switch)}
        settings = [part for name, value in environment.items() for part in ("-E", f"{name}={value}")]
        return [str(self.qemu), "-cpu", processor, "-L", str(SYSROOT), *settings, str(self.runner), *arguments]


@cache
def qemu_version(program: Path) -> tuple[int, ...]:
    """Such as (10, 0, 13); (0,) for a program that does not tell."""
    text = subprocess.run([str(program), "--version"], capture_output=True, text=True).stdout
    found = re.search(r"version (\d+)\.(\d+)\.(\d+)", text)
    return tuple(map(int, found.groups())) if found else (0,)
