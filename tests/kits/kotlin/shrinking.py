"""What a shrinker leaves of classes such as fbjni's, with and without the rules that the kit brings into an app.

R8 reads ProGuard's rules; ProGuard itself is in Debian. Classes in ``minified/`` stand for those of the AAR.
"""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

import toolchain

HERE = Path(__file__).resolve().parent
# Native code finds these by name.
NEEDED = frozenset(f"com/facebook/jni/{name}.class" for name in ("HybridData", "HybridData$Destructor", "CppException"))


def check(rules: Path, out: Path) -> None:
    """``CalledProcessError`` where the rules do not keep what native code needs, or nothing had to be kept."""
    if shutil.which("proguard") is None:
        print("rules for R8 are not tried: apt-get install proguard-cli")
        return
    sources = sorted((HERE / "minified").rglob("*.java"))
    (out / "app").mkdir(parents=True)
    # ProGuard of Debian reads no newer classes.
    toolchain.call("javac", "--release", "8", "-Xlint:-options", "-d", str(out / "app"), *map(str, sources))
    left, kept = _left(None, out), _left(rules, out)
    print(
        f"of {len(NEEDED)} classes a shrunk app keeps {len(left & NEEDED)} without the rules, {len(kept & NEEDED)} with"
    )
    if left >= NEEDED or not kept >= NEEDED:
        raise subprocess.CalledProcessError(1, ["consumer-rules.pro"])


def _left(rules: Path | None, out: Path) -> set[str]:
    """The classes in the shrunk app."""
    app = out / "shrunk.jar"
    lines = [
        f"-injars {out / 'app'}", f"-outjars {app}", "-ignorewarnings", "-dontwarn **", "-dontnote **", "-dontoptimize",
        "-keep class app.Main { public static void main(java.lang.String[]); }",
    ]  # fmt: skip
    configuration = out / "app.pro"
    configuration.write_text("\n".join([*lines, f"-include {rules}" if rules else ""]))
    toolchain.call("proguard", f"@{configuration}")
    with zipfile.ZipFile(app) as archive:
        return set(archive.namelist())
