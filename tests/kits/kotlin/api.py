"""The public interface of the kit, beside the list in the kit: ``api/vggtedge.api``."""

from __future__ import annotations

import difflib
import subprocess
from pathlib import Path

import toolchain


def check(tools: toolchain.Toolchain, path: list[Path], classes: Path, listed: Path, is_written: bool) -> None:
    """``CalledProcessError`` where ``classes`` offer something else than ``listed`` says. is_written: list it anew."""
    found = tools.output("io.vggtedge.ApiKt", path, str(classes))
    if is_written:
        listed.parent.mkdir(exist_ok=True)
        listed.write_text(found)
    before = listed.read_text() if listed.exists() else ""
    changes = difflib.unified_diff(before.splitlines(), found.splitlines(), str(listed.name), "the code", lineterm="")
    text = "\n".join(changes)
    if text:
        print(f"{text}\nwhat an app can call has changed; if that is meant: tests/kits/kotlin/run --write-api")
        raise subprocess.CalledProcessError(1, [listed.name])
    print(f"an app can call {found.count(chr(9))} members of {found.count('{')} classes, as {listed.name} lists them")
