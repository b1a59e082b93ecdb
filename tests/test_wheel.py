"""What is shipped: the wheel holds every file of the source and works where there is nothing else."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"odeframe": "odeframe", "plugins": "odeframe_plugins"}  # folder: name it is imported under


def run(*command: str | Path, cwd: Path) -> str:
    """The output of a command that sees none of this process's Python settings."""
    outer = (
        "PYTHONPATH",
        "PYTHONHOME",
        "VIRTUAL_ENV",
        "PYTEST_ADDOPTS",
        "ODEFRAME_PLUGINS",
        "ODEFRAME_BLOCK_PLUGINS",
    )
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def source_files() -> set[str]:
    """Every file below the two packages, as the wheel names it."""
    return {
        (Path(package) / path.relative_to(ROOT / folder)).as_posix()
        for folder, package in PACKAGES.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in (".pyc", ".pyo")
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a source archive, that from a copy: leftovers of an earlier build play no part."""
    folder = tmp_path_factory.mktemp("build")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / "copy" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "copy")
    run(
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--outdir",
        folder / "dist",
        folder / "copy",
        cwd=folder,
    )
    (built,) = (folder / "dist").glob("*.whl")
    return built


@pytest.mark.slow
def test_wheel_holds_every_file_of_the_source_and_no_other(wheel):
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = source_files()
    assert {"odeframe/__init__.py", "odeframe/py.typed", "odeframe_plugins/__init__.py"} <= expected
    assert shipped == expected, f"missing: {sorted(expected - shipped)}, extra: {sorted(shipped - expected)}"


@pytest.mark.slow
def test_wheel_states_its_entry_points_licence_and_version(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (entry_points,) = (name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
        lines = archive.read(entry_points).decode().split("\n")
        metadata = archive.read(entry_points.replace("entry_points.txt", "METADATA")).decode()
        licence = archive.read(entry_points.replace("entry_points.txt", "licenses/LICENSE")).decode()
    assert lines[lines.index("[odeframe]") + 1] == "odeframe = odeframe_plugins"
    assert lines[lines.index("[console_scripts]") + 1] == "odeframe = odeframe.cli:main"
    assert licence.startswith("MIT License")
    (version,) = re.findall(r'^__version__ = "(.+)"$', (ROOT / "odeframe" / "__init__.py").read_text("utf-8"), re.M)
    assert f"\nVersion: {version}\n" in metadata
    assert "\nLicense-Expression: MIT\n" in metadata
    assert "\nRequires-Python: >=3.11\n" in metadata


def test_every_requirement_has_a_tested_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [
        *project["dependencies"],
        *(line for name, group in extras.items() if name != "all" for line in group),
    ]
    required = {re.match(r"[A-Za-z0-9._-]+", line)[0].lower() for line in lines}
    pins = [line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[a-z0-9-]+==[\w.]+", line)] == []
    assert required - {line.partition("==")[0] for line in pins} == set()
    assert "torch==2.13.0" in pins
    assert extras["all"] == [f"odeframe[{','.join(sorted(extras.keys() - {'all'}))}]"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_wheel_works_in_an_empty_environment(wheel, tmp_path):
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    binaries = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    python, odeframe = binaries / "python", binaries / "odeframe"
    run(python, "-m", "pip", "install", "-qq", "-c", ROOT / "constraints.txt", wheel, cwd=tmp_path)

    where = run(
        python,
        "-c",
        "import odeframe, odeframe_plugins as p; print(odeframe.__file__, p.__file__, sep='\\n')",
        cwd=tmp_path,
    )
    assert all(Path(line).is_relative_to(tmp_path / "venv") for line in where.splitlines()), where

    listing = run(odeframe, "plugins", "list", cwd=tmp_path)
    assert "odeframe" in listing
    assert "quarantined" not in listing

    output = tmp_path / "out"
    run(
        *(odeframe, "fit", "--model.architecture=resnet", "--data.name=digits", "--trainer.max_epochs=1"),
        *("--output", output),
        cwd=tmp_path,
    )
    assert (output / "config.yaml").is_file()
    assert (output / "metrics.csv").is_file()
    assert list((output / "checkpoints").glob("*.ckpt"))
