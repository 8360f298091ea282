"""conda's environment and pip's requirements are one list, and the code imports nothing that is not
on it.
"""

import ast
import shutil
import subprocess
import sys
from importlib.metadata import distributions, version

import pytest
import yaml
from helpers import ROOT
from packaging.requirements import Requirement

OPTIONAL = {"safetensors", "pillow_heif"}  # used where it is there
FOLDERS = (".", "style_modules", "visualizers")
TESTS_ONLY = ("tests",)


def requirements(name: str) -> list[Requirement]:
    """The requirements in a file, those of the files that it includes too."""
    found = []
    for line in (ROOT / name).read_text().splitlines():
        line = line.partition("#")[0].strip()
        if line.startswith("-r "):
            found += requirements(line.removeprefix("-r ").strip())
        elif line:
            found.append(Requirement(line))
    return found


def imported(folders: tuple[str, ...]) -> set[str]:
    """Top-level names of the packages that the code in these folders imports anywhere, this
    project's left out.
    """
    names = set()
    pattern = {"tests": "**/*.py"}
    for path in (
        path for folder in folders for path in (ROOT / folder).glob(pattern.get(folder, "*.py"))
    ):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module.partition(".")[0])
    own = {
        path.stem for path in (*ROOT.iterdir(), *ROOT.glob("*/*.py"), *ROOT.glob("tests/**/*.py"))
    }
    return names - own - set(sys.stdlib_module_names)


def test_conda_takes_python_and_pip_from_conda_forge_and_the_rest_from_the_requirements():
    environment = yaml.safe_load((ROOT / "environment.yaml").read_text())
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    python, pip, rest = environment["dependencies"]
    assert pip == "pip" and rest == {"pip": ["-r requirements.txt"]}
    assert python.startswith("python=3.")
    tools = (ROOT / "pyproject.toml").read_text()
    oldest = tools.partition('target-version = "py3')[2].partition('"')[0]
    assert int(python.removeprefix("python=3.")) >= int(oldest)


@pytest.mark.slow
def test_conda_s_part_for_pip_is_found_from_any_working_directory(tmp_path):
    """As conda and mamba do it: a file with the lines of that part, beside environment.yaml."""
    (tmp_path / "project").mkdir()
    shutil.copy(ROOT / "requirements.txt", tmp_path / "project")
    *_, rest = yaml.safe_load((ROOT / "environment.yaml").read_text())["dependencies"]
    (tmp_path / "project" / "condaenv.requirements.txt").write_text("\n".join(rest["pip"]))
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--no-deps", "-r"]
    command.append("project/condaenv.requirements.txt")
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Requirement already satisfied") == len(
        requirements("requirements.txt")
    )


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_requirements_are_bounded_from_below_and_met_here(name):
    for requirement in requirements(name):
        assert any(bound.operator in (">=", "==") for bound in requirement.specifier), requirement
        assert requirement.specifier.contains(version(requirement.name), prereleases=True), (
            requirement
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folders", "name", "optional"),
    [(FOLDERS, "requirements.txt", OPTIONAL), (TESTS_ONLY, "requirements-dev.txt", set())],
)
def test_everything_imported_is_required(folders, name, optional):
    known = {requirement.name.lower().replace("_", "-") for requirement in requirements(name)}
    found = [
        (source.metadata["Name"], {file.parts[0] for file in source.files or ()})
        for source in distributions()
    ]
    for package in imported(folders) - optional:
        sources = {
            source.lower().replace("_", "-")
            for source, tops in found
            if tops & {package, f"{package}.py"}
        }
        assert sources & known, f"{package} (from {sources}) is imported but not in {name}"


def test_every_requirement_has_its_reason():
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / name).read_text().splitlines():
            assert not line or line.startswith(("#", "-r ")) or line.partition("#")[2].strip(), line
