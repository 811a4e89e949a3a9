"""What the README tells people to type works, and every link of the documentation leads somewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_BLOCK = re.compile(r"^(<!-- run -->\n)?```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[tuple[bool, str]]:
    """(marked to be run, commands) of every bash block."""
    return [(bool(match[1]), match[2]) for match in _BLOCK.finditer(text)]


def documents(repository: Path) -> list[Path]:
    return [repository / "README.md", repository / "CHANGELOG.md", *sorted((repository / "docs").rglob("*.md"))]


def test_readme_opens_with_the_two_commands(repository: Path) -> None:
    _, first = blocks((repository / "README.md").read_text())[0]
    assert [line.split("#")[0].strip() for line in first.splitlines()] == ["make demo", "make test"]


def test_make_knows_what_the_readme_names(repository: Path) -> None:
    makefile = (repository / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z-]+)", (repository / "README.md").read_text()):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.slow
def test_marked_commands_run_in_order(repository: Path, tmp_path: Path) -> None:
    """All in one empty folder, since later blocks look at what earlier ones made; the costly one runs once."""
    marked = [commands for is_marked, commands in blocks((repository / "README.md").read_text()) if is_marked]
    assert any("vggt-edge export --target jetson-orin" in commands for commands in marked)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for commands in marked:
        finished = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert finished.returncode == 0, f"{commands}\n{finished.stdout[-2000:]}\n{finished.stderr[-2000:]}"
    assert (tmp_path / "bundle" / "report.html").stat().st_size > 0


def test_every_relative_link_resolves(repository: Path) -> None:
    dead = [
        f"{document.relative_to(repository)} -> {link}"
        for document in documents(repository)
        for link in _LINK.findall(_FENCE.sub("", document.read_text()))
        if "://" not in link and not (document.parent / link.partition("#")[0]).exists()
    ]
    assert dead == []


def test_prose_wraps_at_120_columns(repository: Path) -> None:
    """Tables, pictures and what lies between fences cannot."""
    long = [
        f"{document.relative_to(repository)}: {line[:60]}"
        for document in documents(repository)
        for line in _FENCE.sub("", document.read_text()).splitlines()
        if len(line) > 120 and not line.startswith(("|", "![", "    "))
    ]
    assert long == []


def test_documents_name_files_that_exist(repository: Path) -> None:
    """Paths in backticks, such as `devices/errors.py`, age silently."""
    path_in_backticks = re.compile(r"`((?:devices|calibration|runtimes|exporter|tests|docs)/[\w/.-]+\.\w+)`")
    gone = [
        f"{document.relative_to(repository)}: {path}"
        for document in documents(repository)
        if "decisions" not in document.parts
        for path in path_in_backticks.findall(document.read_text())
        if not (repository / path).exists()
    ]
    assert gone == []


def test_documents_speak_of_flags_that_exist(repository: Path) -> None:
    """Every --flag beside `vggt-edge` in a block or table is one that some verb knows."""
    from typer.main import get_command

    from vggt_edge.exporter.cli import app

    verbs = vars(get_command(app))["commands"].values()
    known = {"--help", "--version"} | {flag for verb in verbs for option in verb.params for flag in option.opts}
    for document in (repository / "README.md", repository / "docs/configuration.md", repository / "docs/exit-codes.md"):
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", document.read_text())) - known == set(), document


def commands(text: str) -> list[list[str]]:
    """The words of every ``vggt-edge`` command in the bash blocks, without what stands behind a ``#`` or a pipe."""
    lines = [line for _, block in blocks(text) for line in block.replace("\\\n", " ").splitlines()]
    found = [shlex.split(re.split(r"[|>]", line)[0], comments=True) for line in lines if line.startswith("vggt-edge ")]
    return [words[1:] for words in found]


def test_every_command_and_flag_of_the_documentation_exists(repository: Path) -> None:
    known = {
        verb: {name for parameter in command.params for name in parameter.opts}
        for verb, command in known_commands().items()
    }
    wrong = []
    for document in documents(repository):
        for words in commands(document.read_text(encoding="utf-8")):
            verb, rest = ("bench accuracy", words[2:]) if words[:2] == ["bench", "accuracy"] else (words[0], words[1:])
            flags = {word.partition("=")[0] for word in rest if word.startswith("-")}
            unknown = sorted(flags - known.get(verb, set()) - {"-h", "--help", "--version"})
            if unknown or (verb not in known and not verb.startswith("-")):
                wrong.append(f"{document.relative_to(repository)}: vggt-edge {' '.join(words)}: {unknown or verb}")
    assert wrong == []


def known_commands() -> dict[str, Any]:
    """Every command by its verb, those of groups as ``group verb``."""
    from typer.main import get_command

    from vggt_edge.exporter.cli import app

    found: dict[str, Any] = {}
    for verb, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        found[verb] = command
        found |= {f"{verb} {name}": inner for name, inner in getattr(command, "commands", {}).items()}
    return found
