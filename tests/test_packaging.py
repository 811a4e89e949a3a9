"""The wheel holds what the disk holds, and runs from a folder that is full of traps."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

FOLDERS = ("calibration", "devices", "exporter", "runtimes")
NOT_SHIPPED = {"__pycache__"}
DECOY = "raise SystemExit('a decoy was imported')\n"


def run(*command: str | Path, cwd: Path) -> str:
    finished = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False, timeout=300
    )
    assert finished.returncode == 0, f"{command}\n{finished.stdout}\n{finished.stderr}"
    return finished.stdout


def shipped_files(repository: Path) -> set[str]:
    """Every file that belongs into the wheel, by its installed name."""
    return {
        f"vggt_edge/{path.relative_to(repository).as_posix()}"
        for folder in FOLDERS
        for path in (repository / folder).rglob("*")
        if path.is_file() and not NOT_SHIPPED & set(path.parts)
    }


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no build folder is left behind and none that lies around gets in."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((repository / name).read_bytes())
    for name in FOLDERS:
        (source / name).symlink_to(repository / name, target_is_directory=True)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def clean_environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, and our dependencies by a path entry; the editable install is not in it."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    run(
        sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--no-index",
        "--prefix", folder, "--ignore-installed", wheel, cwd=folder,
    )  # fmt: skip
    # Path entries added by a .pth file are not searched for further .pth files: the editable finder stays asleep.
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    return folder


def test_listed_packages_are_those_on_disk(repository: Path) -> None:
    """A forgotten subpackage is missing from the wheel and still works in an editable install."""
    listed = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    on_disk = {
        "vggt_edge." + ".".join(path.parent.relative_to(repository).parts)
        for folder in FOLDERS
        for path in (repository / folder).rglob("*.py")
        if not path.parent.name.startswith("kit")
    }
    assert sorted(listed) == sorted(on_disk)


def test_every_package_has_an_init(repository: Path) -> None:
    """Without one, a folder would join the namespace and could be shadowed."""
    folders = {
        path.parent
        for folder in FOLDERS
        for path in (repository / folder).rglob("*.py")
        if not path.parent.name.startswith("kit")
    }
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_the_namespace_is_typed(repository: Path) -> None:
    assert [folder for folder in FOLDERS if not (repository / folder / "py.typed").is_file()] == []


@pytest.mark.slow
def test_wheel_holds_every_file(wheel: Path, repository: Path) -> None:
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert inside == shipped_files(repository)


@pytest.mark.slow
def test_command_runs_beside_decoys(clean_environment: Path, tmp_path: Path) -> None:
    """The names of our folders are common ones: files of those names in the current folder must not be imported."""
    for name in (*FOLDERS, "vggt_edge"):
        (tmp_path / f"{name}.py").write_text(DECOY)
    command = clean_environment / "bin" / "vggt-edge"
    assert "export" in run(command, "--help", cwd=tmp_path)
    assert "jetson-orin" in run(command, "targets", cwd=tmp_path)
    assert 'target = "jetson-orin"' in run(command, "export", "--dry-run", cwd=tmp_path)


@pytest.mark.slow
def test_what_runs_there_is_the_wheel(clean_environment: Path, repository: Path, tmp_path: Path) -> None:
    """Guards the test above: it would pass just as well on the editable install."""
    program = "import vggt_edge.exporter.cli as cli; print(cli.__file__)"
    where = Path(run(clean_environment / "bin" / "python", "-c", program, cwd=tmp_path).strip())
    assert where.is_relative_to(clean_environment)
    assert not where.is_relative_to(repository)


def test_installed_metadata_is_that_of_pyproject(repository: Path) -> None:
    """Fails when pyproject.toml changed after the last install, which would make other tests lie."""
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    assert metadata.version("vggt-edge") == project["version"]
    assert set(metadata.metadata("vggt-edge").get_all("Provides-Extra") or ()) == set(project["optional-dependencies"])
