"""What an installation holds: every file of the tree, and nothing at the top level but tamis."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.resources import files
from pathlib import Path

import pytest

from tamis.callbacks import Filtration
from tamis.rollout import Rollout

ROOT = Path(__file__).parent.parent
FOLDERS = ("modules", "datamodules", "callbacks", "configs")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the tree as git knows it (a build leaves files behind)."""
    copy, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    for name in listing.stdout.split():
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            target.symlink_to(os.readlink(ROOT / name))
        elif (ROOT / name).is_file():
            target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir"]
    subprocess.run([*command, str(out), str(copy)], check=True)
    return next(out.glob("tamis-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment with the wheel installed; the dependencies are this environment's."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--quiet", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    # A plain path line: this environment's packages, but not its editable tamis, which is a .pth file of its own.
    site = next((folder / "lib").glob("python*")) / "site-packages"
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def _run(python: Path | str, code: str, folder: Path) -> str:
    result = subprocess.run([str(python), "-c", code], cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_the_wheel_holds_the_tree(wheel: Path) -> None:
    package = ROOT / "src" / "tamis"
    tree = {
        f"tamis/{path.relative_to(package)}"
        for folder in (package, *(package / name for name in FOLDERS))
        for path in folder.rglob("*")
        if path.is_file() and path.suffix in {".py", ".yaml", ".typed", ".bpf"}
    }
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert inside == tree
    assert any(name.endswith("configs/quickstart/pf_ppo.yaml") for name in inside)


# From the root as from elsewhere; each in a process of its own, which is a fork where the libraries are loaded already.
FROM_BOTH = """
import os, sys
import lightning.pytorch.cli
for folder in FOLDERS:
    child = os.fork()
    if not child:
        os.chdir(folder)
        exec(CODE)
        sys.stdout.flush()
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(folder)
"""
# As `python -m tamis --help` does, after the sub-packages: it ends by SystemExit.
IMPORT_AND_HELP = """
import runpy
import tamis.modules, tamis.callbacks, tamis.datamodules
print("modules of", tamis.modules.__file__)
sys.argv = ["tamis", "--help"]
try:
    runpy.run_module("tamis", run_name="__main__", alter_sys=True)
except SystemExit as end:
    print("ended", end.code)
"""


def _run_from_both(python: Path | str, code: str, elsewhere: Path) -> str:
    folders = [str(ROOT), str(elsewhere)]
    program = FROM_BOTH.replace("FOLDERS", repr(folders)).replace("CODE", repr(code))
    return _run(python, program, ROOT)


def test_an_installed_wheel_works_from_any_directory(installed: Path, tmp_path: Path) -> None:
    told = _run_from_both(installed, IMPORT_AND_HELP, tmp_path)
    from_root, from_elsewhere = told.split("modules of ")[1:]
    for text in (from_root, from_elsewhere):
        assert "site-packages/tamis/modules" in text.splitlines()[0]
        assert "fit" in text
        assert text.strip().endswith("ended 0")


def test_this_installation_works_from_any_directory(tmp_path: Path) -> None:
    told = _run_from_both(sys.executable, "import tamis.modules; print('here')", tmp_path)
    assert told.split() == ["here", "here"]


def test_nothing_but_tamis_reaches_the_top_level(installed: Path, tmp_path: Path) -> None:
    code = "from importlib.util import find_spec; print([n for n in NAMES if find_spec(n)])".replace(
        "NAMES", repr(FOLDERS)
    )
    assert _run(installed, code, tmp_path) == "[]"
    assert _run(sys.executable, code, tmp_path) == "[]"


@pytest.mark.parametrize("command", [[sys.executable, "-m", "pytest"], [str(Path(sys.executable).parent / "pytest")]])
def test_pytest_runs_from_the_root_both_ways(command: list[str]) -> None:
    result = subprocess.run([*command, "-q", "tests/test_rollout.py"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_configs_are_package_data() -> None:
    assert (files("tamis.configs") / "quickstart" / "pf_ppo.yaml").is_file()


def _strategy(filtration: Filtration, queue: multiprocessing.Queue[str]) -> None:
    queue.put(filtration.strategy)


def test_objects_survive_a_spawned_process() -> None:
    assert pickle.loads(pickle.dumps(Rollout)) is Rollout
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_strategy, args=(Filtration("best_worst"), queue))
    process.start()
    assert queue.get(timeout=120) == "best_worst"
    process.join(timeout=60)
    assert process.exitcode == 0


def test_the_type_checker_opens_the_root_folders(tmp_path: Path) -> None:
    """A wrong type seeded into modules/ is reported: the check does not stop at the links."""
    for name in ("pyproject.toml", "src", *FOLDERS):
        source, target = ROOT / name, tmp_path / name
        if source.is_dir():
            _copy_tree(source, target)
        else:
            target.write_bytes(source.read_bytes())
    seeded = tmp_path / "modules" / "schedules.py"
    seeded.write_text(seeded.read_text() + '\n\nseeded: int = "not a number"\n')
    # The checkout's cache spares the analysis of torch where `make lint` has run before.
    options = [f"--cache-dir={ROOT / '.mypy_cache'}"]
    command = [sys.executable, "-m", "mypy", "-p", "tamis.modules.schedules", *options]
    result = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "MYPYPATH": str(tmp_path / "src")}
    )
    assert result.returncode == 1
    assert "modules/schedules.py" in result.stdout
    assert 'Incompatible types in assignment (expression has type "str", variable has type "int")' in result.stdout


def _copy_tree(source: Path, target: Path) -> None:
    target.mkdir()
    for path in source.iterdir():
        if path.is_symlink():
            (target / path.name).symlink_to(os.readlink(path))
        elif path.is_dir() and path.name != "__pycache__":
            _copy_tree(path, target / path.name)
        elif path.is_file():
            (target / path.name).write_bytes(path.read_bytes())
