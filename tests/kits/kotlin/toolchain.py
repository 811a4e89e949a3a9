"""Finds a Kotlin compiler, Java and JUnit, or installs them: from PyPI and Debian alone.

The compiler is the one inside PyPI's kotlin-jupyter-kernel; coroutines come in the same file. It lies in
``$KOTLIN_ROOT`` or the user's cache. Debian's packages are installed only as root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SKIPPED = 77
PACKAGE = "kotlin-jupyter-kernel"
DEBIAN = Path("/usr/share/java")
JUNIT = (DEBIAN / "junit4.jar", DEBIAN / "hamcrest.jar")


class MissingToolError(Exception):
    """Something to install, in words for the user."""


@dataclass(frozen=True)
class Toolchain:
    """What compiles and runs the kit.

    compiler: class path of the compiler. libraries: what the kit and its tests compile and run against.
    """

    compiler: str
    libraries: tuple[Path, ...]

    def kotlin(self, sources: list[Path], out: Path, classpath: list[Path], *options: str) -> None:
        """Compile with warnings as errors."""
        call(
            "java", "-Xmx1500m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", self.compiler,
            "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", "-no-stdlib", "-no-reflect", "-jvm-target", "17", "-Werror",
            *options, "-cp", joined([*classpath, *self.libraries]), "-d", str(out), *map(str, sources),
        )  # fmt: skip

    def java(self, sources: list[Path], out: Path, classpath: list[Path]) -> None:
        """Compile Java with warnings as errors."""
        path = joined([*classpath, *self.libraries])
        call("javac", "-Werror", "-Xlint:all,-serial,-processing,-classfile", "-proc:none", "-cp", path,
             "-d", str(out), *map(str, sources))  # fmt: skip

    def run(
        self,
        main: str,
        classpath: list[Path],
        *arguments: str,
        options: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
        says: str = "",
    ) -> None:
        """Run a class in a Java machine of its own; it fails too where the output does not hold ``says``."""
        path = joined([*classpath, *self.libraries])
        call("java", *options, "-cp", path, main, *arguments, environment=environment, says=says)

    def output(self, main: str, classpath: list[Path], *arguments: str) -> str:
        """The output of a class that runs in a Java machine of its own."""
        path = joined([*classpath, *self.libraries])
        done = subprocess.run(["java", "-cp", path, main, *arguments], stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout


def joined(paths: list[Path]) -> str:
    return os.pathsep.join(map(str, paths))


def call(*command: str, environment: dict[str, str] | None = None, says: str = "") -> None:
    """Run a command and show its output. ``CalledProcessError`` where it fails, or does not say ``says``."""
    sys.stdout.flush()
    with subprocess.Popen(
        command,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        has_said = not says
        for line in process.stdout:
            print(line, end="", flush=True)
            has_said = has_said or says in line
    if process.returncode or not has_said:
        raise subprocess.CalledProcessError(process.returncode or 1, command)


def find() -> Toolchain:
    """The toolchain, after installing what is missing; ``MissingToolError`` where that cannot be done."""
    _debian()
    root = Path(os.environ.get("KOTLIN_ROOT") or Path.home() / ".cache/vggt-edge/kotlin")
    if not (root / ".ready").exists():
        _compiler(root)
    jars = root / "run_kotlin_kernel/jars"
    names = ("kotlin-stdlib-*.jar", "kotlin-reflect-*.jar", "kotlin-jupyter-kernel-*-all.jar")
    library, reflection, compiler = (found for name in names for found in jars.glob(name))
    # Coroutines lie in the compiler's jar: it stands last, so that nothing else is taken from it.
    return Toolchain(str(jars / "*"), (library, reflection, *JUNIT, compiler))


def _compiler(root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    if subprocess.run([*command, "--target", str(root), PACKAGE], check=False).returncode:
        raise MissingToolError(f"no Kotlin compiler: pip install --no-deps --target {root} {PACKAGE}")
    (root / ".ready").touch()


def _debian() -> None:
    packages = [] if shutil.which("javac") else ["default-jdk-headless"]
    packages += [] if all(jar.exists() for jar in JUNIT) else ["junit4"]
    if not packages:
        return
    wanted = f"apt-get install --no-install-recommends {' '.join(packages)}"
    if os.geteuid() or not shutil.which("apt-get"):
        raise MissingToolError(f"no {' and no '.join(packages)}: {wanted}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        call("apt-get", "update", "-qq", environment=quiet)
        call("apt-get", "install", "-qq", "--no-install-recommends", *packages, environment=quiet)
    except subprocess.CalledProcessError as error:
        raise MissingToolError(f"Debian's packages could not be installed: {wanted}") from error
