"""What is installed is what is written: package list, entry points, and a wheel built from a clean copy."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import kdpipe
import pytest

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HOUSES = ("cli", "pipeline", "stores")


def package_files() -> list[Path]:
    """Every file the package is made of, relative to the root."""
    files = [ROOT / "__init__.py", ROOT / "__main__.py", ROOT / "py.typed"]
    for house in HOUSES:
        files += [p for p in (ROOT / house).rglob("*") if p.is_file() and p.parent.name != "__pycache__"]
    return sorted(path.relative_to(ROOT) for path in files)


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command away from the checkout and give what it prints."""
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, f"{command} exited {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy that holds tests and no earlier build output, without touching the network."""
    source = tmp_path_factory.mktemp("source") / "checkout"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in (*HOUSES, "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("__init__.py", "__main__.py", "py.typed", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    out = tmp_path_factory.mktemp("wheel")
    flags = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir")
    run(sys.executable, "-m", "pip", "wheel", ".", *flags, out, cwd=source)
    (built,) = out.iterdir()
    return built


def test_listed_packages_are_the_folders_with_an_init() -> None:
    inits = [path for path in package_files() if path.name == "__init__.py"]
    folders = {".".join(("kdpipe", *path.parent.parts)) for path in inits}
    listed = PYPROJECT["tool"]["setuptools"]["packages"]
    assert set(listed) == folders
    assert listed == sorted(folders), "kept sorted, each once"


def test_no_python_file_lies_outside_a_package() -> None:
    stray = [p for p in package_files() if p.suffix == ".py" and not (ROOT / p.parent / "__init__.py").exists()]
    assert stray == []


def test_the_tests_are_no_package() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_version_and_python_are_said_once() -> None:
    assert PYPROJECT["project"]["version"] == kdpipe.__version__
    assert PYPROJECT["project"]["requires-python"] == ">=3.11"
    assert PYPROJECT["tool"]["ruff"]["target-version"] == "py311"
    classifiers = PYPROJECT["project"]["classifiers"]
    assert "Programming Language :: Python :: 3.11" in classifiers
    assert "Programming Language :: Python :: 3.10" not in classifiers


def test_installed_metadata_is_this_version() -> None:
    metadata = importlib.metadata.metadata("kdpipe")
    assert metadata["Version"] == kdpipe.__version__
    assert metadata["Requires-Python"] == ">=3.11"


def test_imports_from_anywhere(tmp_path: Path) -> None:
    assert run(sys.executable, "-c", "import kdpipe; print(kdpipe.__version__)", cwd=tmp_path).strip() == (
        kdpipe.__version__
    )


def test_module_and_script_give_the_same_help(tmp_path: Path) -> None:
    script = Path(sysconfig.get_path("scripts")) / "kdpipe"
    by_module = run(sys.executable, "-m", "kdpipe", "--help", cwd=tmp_path)
    assert "store" in by_module
    usage, _, rest = run(script, "--help", cwd=tmp_path).partition("\n")
    assert usage.startswith("Usage: kdpipe")
    assert rest == by_module.partition("\n")[2]


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = f"kdpipe-{kdpipe.__version__}.dist-info/"
    assert {n for n in names if not n.startswith(info)} == {f"kdpipe/{p.as_posix()}" for p in package_files()}
    assert "kdpipe/py.typed" in names
    assert f"{info}licenses/LICENSE" in names


def test_wheel_is_typed_pure_and_for_this_python(wheel: Path) -> None:
    assert wheel.name == f"kdpipe-{kdpipe.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"kdpipe-{kdpipe.__version__}.dist-info/METADATA").decode()
    assert "Requires-Python: >=3.11\n" in metadata
    assert "License-Expression: Apache-2.0\n" in metadata


def test_wheel_works_where_it_is_unpacked(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    flags = ("--no-deps", "--no-index", "--quiet", "--target")
    run(sys.executable, "-m", "pip", "install", *flags, target, wheel, cwd=tmp_path)
    code = "import kdpipe, kdpipe.pipeline, kdpipe.cli.main; print(kdpipe.__file__)"
    where = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(target)).strip()
    assert Path(where) == target / "kdpipe" / "__init__.py", "another copy was imported"
    assert "Usage" in run(sys.executable, "-m", "kdpipe", "--help", cwd=tmp_path, PYTHONPATH=str(target))
