"""The rules of the house: imports run one way, light commands stay light, files and functions stay small."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOUSES = ("cli", "pipeline", "stores")
CODE = ("__init__.py", "__main__.py", *HOUSES, "tests", "benchmarks", "examples")
MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 70

# what a command that only looks at a store must not wait for
HEAVY = {
    "datasets", "numcodecs", "onnx", "onnxruntime", "pandas", "ray", "scipy", "sklearn", "timm", "torch", "torchmetrics",
    "torchvision", "xarray", "zarr",
}  # fmt: skip

ONE_WAY = "imports run one way"
NO_TORCH = "stores never imports torch"


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False
    )


# --- imports run one way


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package, as a plain folder `kdpipe`, in which a test may break the rules."""
    home = tmp_path_factory.mktemp("house")
    shutil.copy(ROOT / "pyproject.toml", home)
    for name in HOUSES:
        shutil.copytree(ROOT / name, home / "kdpipe" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__init__.py", "__main__.py"):
        shutil.copy(ROOT / name, home / "kdpipe")
    return home


@pytest.fixture
def plant(house: Path) -> Iterator[Path]:
    """A folder of the copy; what a test adds there is gone after it."""
    before = set(house.rglob("*.py"))
    yield house / "kdpipe"
    for path in set(house.rglob("*.py")) - before:
        path.unlink()


def lint_imports(home: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of the `kdpipe` in this folder: import-linter puts its working directory first."""
    command = str(Path(sysconfig.get_path("scripts")) / "lint-imports")
    return run(command, "--config", str(home / "pyproject.toml"), "--no-cache", "--no-logo", cwd=home)


def test_import_contracts_hold(house: Path) -> None:
    result = lint_imports(house)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("where", "planted", "contract"),
    [
        ("stores", "import torch", NO_TORCH),
        ("stores", "from torchvision import models", NO_TORCH),
        ("stores", "def late():\n    import torch.nn.functional", NO_TORCH),
        ("stores", "from kdpipe.pipeline import losses", ONE_WAY),
        ("stores", "from ..cli import main", ONE_WAY),
        ("pipeline", "from ..cli import main", ONE_WAY),
    ],
)
def test_import_contracts_bite(plant: Path, where: str, planted: str, contract: str) -> None:
    (plant / where / "planted.py").write_text(f"{planted}\n", encoding="utf-8")
    result = lint_imports(plant.parent)
    assert result.returncode == 1, result.stdout + result.stderr
    broken = [line for line in result.stdout.splitlines() if line.endswith("BROKEN")]
    assert any(line.startswith(contract) for line in broken), result.stdout
    assert f"kdpipe.{where}.planted" in result.stdout


# --- light commands stay light


def loaded_by(code: str, tmp_path: Path) -> set[str]:
    """The top-level modules that a fresh interpreter holds after running this code."""
    listing = tmp_path / "modules.txt"
    wrapper = f"""
import pathlib, sys
try:
    {code}
except SystemExit as stop:
    assert not stop.code, stop.code
pathlib.Path({str(listing)!r}).write_text("\\n".join(sys.modules))
"""
    result = run(sys.executable, "-c", wrapper, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    return {name.partition(".")[0] for name in listing.read_text().split()}


def test_opening_a_store_loads_nothing_heavy(tmp_path: Path) -> None:
    modules = loaded_by("import kdpipe; kdpipe.open_store", tmp_path)
    assert "kdpipe" in modules
    assert modules & HEAVY == set()


@pytest.mark.parametrize("arguments", ["--help", "store --help", "store inspect --help"])
def test_help_loads_nothing_heavy(arguments: str, tmp_path: Path) -> None:
    argv = ["kdpipe", *arguments.split()]
    modules = loaded_by(f"from kdpipe.cli.main import main; sys.argv = {argv!r}; main()", tmp_path)
    assert "click" in modules
    assert modules & (HEAVY | {"numpy", "pyarrow", "msgspec"}) == set()
    assert "dataclasses" not in modules or "inspect" in arguments  # a group's help imports no command


# --- files and functions stay small


def sources() -> list[Path]:
    """Every Python file that people write here."""
    found = [ROOT / name for name in CODE if name.endswith(".py")]
    for name in CODE:
        found += (ROOT / name).rglob("*.py")
    return sorted(found)


def test_no_file_outgrows_a_room() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources()}
    assert len(lengths) > 20
    assert {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > MAX_FILE_LINES} == {}


def test_no_function_outgrows_a_page() -> None:
    long = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name} ({length} lines)")
    assert long == []


# --- the tree names no machine


def machine_words() -> list[str]:
    """Registry hosts (put together here, so that this file does not name them) and the paths of this machine."""
    hosts = [
        ("pypi", "org"),
        ("files", "pythonhosted", "org"),
        ("registry", "npmjs", "org"),
        ("registry", "yarnpkg", "com"),
        ("conda", "anaconda", "org"),
        ("deb", "debian", "org"),
        ("crates", "io"),
        ("proxy", "golang", "org"),
        ("download", "pytorch", "org/whl"),
    ]
    words = [".".join(host) for host in hosts] + [str(ROOT)]
    everyday = {"/", "/home", "/opt", "/srv", "/usr", "/var", "/mnt", tempfile.gettempdir()}
    words += [f"{path}/" for path in (ROOT.parent, Path.home()) if str(path) not in everyday]
    return words


def test_the_tree_names_no_registry_and_no_machine() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", cwd=ROOT)
    assert listing.returncode == 0, listing.stderr
    names = [name for name in listing.stdout.split("\0") if name]
    assert "pyproject.toml" in names
    pattern = re.compile(rb"(?<![\w.])(?:" + b"|".join(re.escape(os.fsencode(w)) for w in machine_words()) + rb")")
    found = []
    for path in (ROOT / name for name in names):
        if path.is_file():
            found += [f"{path.relative_to(ROOT)}: {m.group().decode()}" for m in pattern.finditer(path.read_bytes())]
    assert found == []
