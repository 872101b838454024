"""What `pyproject.toml`, the lock file and the wheel promise about each other."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NAME = PROJECT["project"]["name"]
FOLDERS = {
    folder: package.replace(".", "/") for package, folder in PROJECT["tool"]["setuptools"]["package-dir"].items()
}


def shipped_files() -> list[str]:
    """Every file of the source folders, except what Python leaves there and measured speeds."""
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    kept = [path for path in paths if "__pycache__" not in path.parts and not path.match("bench-*.json")]
    return sorted(path.relative_to(ROOT).as_posix() for path in kept)


def requirements(*extras: str) -> list[Requirement]:
    """What the core install needs, and what the extras add, with extras that name other extras spelt out."""
    project = PROJECT["project"]
    found = [Requirement(text) for text in project["dependencies"]]
    for extra in extras:
        for requirement in map(Requirement, project["optional-dependencies"][extra]):
            found += requirements(*requirement.extras) if requirement.name == NAME else [requirement]
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy so that the checkout stays clean."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for file in [*shipped_files(), "pyproject.toml", "README.md", "LICENSE"]:
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, source / file)
    shutil.copytree(ROOT / "tests", source / "tests")
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(target)], cwd=source, check=True, capture_output=True)
    return zipfile.ZipFile(next(target.glob("*.whl")))


def test_wheel_holds_every_file_of_the_source_folders_and_no_other(wheel):
    expected = set()
    for file in shipped_files():
        folder, _, rest = file.partition("/")
        expected.add(f"{FOLDERS[folder]}/{rest}")
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert found == expected


def test_wheel_tells_checkers_that_it_is_typed_and_installs_the_command(wheel):
    assert "zoo/py.typed" in wheel.namelist()
    entry_points = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "zoo = zoo.cli:main" in wheel.read(entry_points).decode()


def test_every_folder_with_python_files_is_a_listed_package():
    folders = {Path(file).parent.as_posix() for file in shipped_files() if file.endswith(".py")}
    packages = {
        (FOLDERS[folder.split("/")[0]] + folder[len(folder.split("/")[0]) :]).replace("/", ".") for folder in folders
    }
    assert packages == set(PROJECT["tool"]["setuptools"]["packages"])


def test_every_imported_package_is_declared():
    declared = {canonicalize_name(requirement.name) for requirement in requirements("all")}
    distributions = packages_distributions()
    undeclared = {}
    for file in shipped_files():
        if not file.endswith(".py"):
            continue
        for node in ast.walk(ast.parse((ROOT / file).read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module]
            for name in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"zoo"}:
                if not declared & {canonicalize_name(owner) for owner in distributions.get(name, [name])}:
                    undeclared[name] = file
    assert undeclared == {}


def test_lock_has_a_version_of_every_requirement_that_suits_it():
    versions: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([\w.+]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE):
        versions.setdefault(canonicalize_name(name), set()).add(version)
    for requirement in requirements("dev"):
        locked = versions.get(canonicalize_name(requirement.name), set())
        assert locked, f"{requirement} is not in the lock file; run `make lock`"
        assert all(version in requirement.specifier for version in locked), f"{requirement}, locked at {locked}"


def test_all_extras_together_hold_what_each_extra_asks_for():
    extras = set(PROJECT["project"]["optional-dependencies"]) - {"all", "dev"}
    assert {str(found) for found in requirements("all")} == {str(found) for found in requirements(*extras)}


def test_make_commands_of_readme_and_ci_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for file in ("README.md", ".ci/run"):
        commands = set(re.findall(r"\bmake ([a-z][\w-]*)", (ROOT / file).read_text()))
        assert commands, f"{file} calls make nowhere"
        assert commands <= targets, f"{file} names targets that the Makefile lacks"
