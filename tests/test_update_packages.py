"""The recipe for update packages: its scripts are shell, and RAUC's manifest has the parts that it speaks of."""

from __future__ import annotations

import configparser
import re
import subprocess
from pathlib import Path


def blocks(repository: Path, language: str) -> list[str]:
    text = (repository / "docs/how-to/update-packages.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_scripts_are_shell(repository: Path) -> None:
    scripts = blocks(repository, "bash")
    assert len(scripts) > 4
    for script in scripts:
        subprocess.run(["sh", "-n"], input=script.encode(), check=True)


def test_the_manifest_names_its_hook_and_image(repository: Path) -> None:
    (text,) = blocks(repository, "ini")
    manifest = configparser.ConfigParser()
    manifest.read_string(text)
    assert manifest.sections() == ["update", "bundle", "hooks", "image.vggt"]
    for name in (manifest["hooks"]["filename"], manifest["image.vggt"]["filename"]):
        assert name in "".join(blocks(repository, "bash"))
