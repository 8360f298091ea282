"""Collect the submission: assignment_3_submission.zip, checked before it is written.

Standard library only, and nothing of the project's before it has been seen to import: a broken file
must be named, not stumbled over.
"""

import argparse
import ast
import contextlib
import functools
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
import zipfile
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
ARCHIVE = "assignment_3_submission.zip"
DOCUMENTS = ("report.pdf", "notebooks/*.ipynb", "notebooks/*.pdf")
# What the notebooks and style_transfer.py read.
DATA = (
    "notebooks/cs231n/*.py",
    "notebooks/cs7643/*.py",
    "data/reference_values.npz",
    "data/styles/*.jpg",
)
# These must run from the zip: what they import, and what that imports, must be in it, and must
# itself import.
SCRIPTS = (
    "saliency_map.py",
    "gradcam.py",
    "fooling_image.py",
    "class_visualization.py",
    "style_transfer.py",
    "sanity_checks.py",
    "writeup.py",
    "check.py",
    "data_utils.py",
)
# To try the imports
PACKAGES = (
    "torch",
    "torchvision",
    "captum",
    "numpy",
    "matplotlib",
    "PIL",
    "fpdf",
    "markdown_it",
    "pypdf",
)
PATIENCE = 300  # seconds for the imports, most of which torch takes
UNPACKED_CHECK = (
    "import sys; sys.path.insert(0, ''); import collect_submission as c; c.report_imports()"
)


class SubmissionError(Exception):
    """Why there is no submission, on one line."""


def check_environment() -> None:
    """Raise SubmissionError where this Python is not the environment's."""
    absent = [name for name in ("torch", "torchvision", "numpy") if not _is_installed(name)]
    if absent:
        raise SubmissionError(
            f"this Python has no {', '.join(absent)}: activate the project's environment first"
        )


def required_files(root: Path) -> dict[str, str]:
    """Return the scripts and what they import of the project: file → who imports it.

    What is imported inside a function counts, and so does a module that is neither in the project
    nor installed.
    """
    importers: dict[str, str] = {}
    left = [(name, "") for name in reversed(SCRIPTS)]
    while left:
        name, importer = left.pop()
        if name not in importers:
            importers[name] = importer
            left += [
                (file, name)
                for module in _imported_modules(root / name, name)
                for file in _files_of(root, *module)
            ]
    return dict(sorted(importers.items()))


def _imported_modules(path: Path, name: str) -> list[tuple[str, bool]]:
    """Yield what a file imports: dotted name, and whether that is surely a module."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):  # named elsewhere
        return []
    modules = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules += [(alias.name, True) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = Path(name).parent.parts
            above = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join([*above, *filter(None, [node.module])])
            modules += [(base, True), *((f"{base}.{alias.name}", False) for alias in node.names)]
    return modules


def _files_of(root: Path, module: str, surely: bool) -> list[str]:
    """Return the files of a module of the project; none where the module is not ours."""
    parts = module.split(".")
    packages = [f"{'/'.join(parts[:i])}/__init__.py" for i in range(1, len(parts))]
    path = root.joinpath(*parts)
    if path.is_dir() and (path / "__init__.py").is_file():
        return [*packages, f"{'/'.join(parts)}/__init__.py"]
    if path.with_name(f"{parts[-1]}.py").is_file():
        return [*packages, f"{'/'.join(parts)}.py"]
    if surely and not _is_installed(parts[0]):
        return [f"{'/'.join(parts)}.py"]
    return []


@functools.cache
def _is_installed(name: str) -> bool:
    elsewhere = [path for path in sys.path if Path(path).resolve() != ROOT]
    return name in sys.stdlib_module_names or PathFinder.find_spec(name, elsewhere) is not None


def code_of(root: Path) -> list[Path]:
    """Return the submission's code: the root's modules and the packages that they need."""
    folders = {root, *((root / name).parent for name in required_files(root))}
    return sorted(
        path
        for folder in folders
        for path in folder.glob("*.py")
        if path.is_file() and path.name[0] != "."
    )


def read_files(root: Path, code_only: bool = False) -> dict[str, bytes]:
    """Read the files that belong in the submission: path in the zip → content, in a fixed order."""
    documents = [
        path for pattern in DATA + (() if code_only else DOCUMENTS) for path in root.glob(pattern)
    ]
    paths = sorted(
        {*code_of(root), *(path for path in documents if path.is_file() and path.name[0] != ".")}
    )
    try:
        files = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
    except OSError as error:
        raise SubmissionError(f"cannot read {error.filename}: {error.strerror}") from error
    if odd := [name for name in files if any(0xDC80 <= ord(letter) <= 0xDCFF for letter in name)]:
        raise SubmissionError(f"{odd[0]!r}: a name with bytes that are no text; rename it")
    missing = {
        name: importer for name, importer in required_files(root).items() if name not in files
    }
    if missing:
        named = [
            f"{name} ({importer} imports it)" if importer else name
            for name, importer in missing.items()
        ]
        raise SubmissionError(f"missing from the project: {', '.join(named)}")
    return files


def check_compiles(files: dict[str, bytes]) -> None:
    """Compile every .py file without running it."""
    problems = []
    for name, content in files.items():
        try:
            if name.endswith(".py"):
                compile(importlib.util.decode_source(content), name, "exec", dont_inherit=True)
        except SyntaxError as error:
            problems.append(f"{name} line {error.lineno}: {error.msg}")
        except ValueError as error:  # null bytes, or not in the encoding that it declares
            problems.append(f"{name}: {error}")
    if problems:
        raise SubmissionError(f"does not compile: {'; '.join(problems)}")


def zip_files(files: dict[str, bytes]) -> bytes:
    """Return a zip archive that depends on nothing but the names and contents."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)  # dated 1980
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system, info.external_attr = (
                3,
                (0o755 if name.endswith((".sh", "run_autograder")) else 0o644) << 16,
            )
            archive.writestr(info, content)
    return buffer.getvalue()


def check_imports(archive: bytes) -> None:
    """Unpack the archive into an empty folder and import its modules in a process of its own."""
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise SubmissionError(
            f"{sys.executable} lacks {', '.join(missing)}; activate the environment first, or make "
            f".venv with `make`"
        )
    command = [sys.executable, "-B", "-c", UNPACKED_CHECK]
    any_letter = {**os.environ, "PYTHONIOENCODING": "utf-8:backslashreplace"}
    kwargs: dict[str, Any] = {"env": any_letter, "encoding": "utf-8", "capture_output": True}
    kwargs |= {"stdin": subprocess.DEVNULL, "timeout": PATIENCE}
    try:
        with tempfile.TemporaryDirectory() as folder:
            zipfile.ZipFile(io.BytesIO(archive)).extractall(folder)
            check = subprocess.run(command, cwd=folder, **kwargs)
    except subprocess.TimeoutExpired:
        raise SubmissionError(
            f"the imports take more than {PATIENCE} s: nothing should run at import"
        ) from None
    except OSError as error:  # usually a full disk
        raise SubmissionError(f"cannot unpack the zip to try it: {error.strerror}") from error
    problems = check.stdout.splitlines()
    if check.returncode and not problems:
        problems = check.stderr.splitlines()[-1:] or [
            f"the import check ended with status {check.returncode}"
        ]
    if problems:
        raise SubmissionError(f"does not import from the zip: {'; '.join(problems)}")


def report_imports() -> None:
    """Import each required module; print a line for each failure. Runs in the archive."""
    problems = []
    for name in required_files(ROOT):
        try:
            with contextlib.redirect_stdout(sys.stderr):
                importlib.import_module(
                    name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
                )
        except BaseException as error:
            # SystemExit too: a module that ends the program is of no use
            problems.append(
                f"{_origin(error) or name}: {_one_line(f'{type(error).__name__[:80]}: {error}')}"
            )
    print(*dict.fromkeys(problems), sep="\n", end="")


def _one_line(text: str) -> str:
    """Return an exception's text as it can be shown: short, and without control characters."""
    text = " ".join(text[:400].split())[:200]
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _origin(error: BaseException) -> str:
    """Return the innermost line of this project that an exception passed through."""
    places = [
        f"{Path(frame.filename).relative_to(ROOT).as_posix()} line {frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(ROOT) and frame.filename != __file__
    ]
    return places[-1] if places else ""


def without_outputs(files: dict[str, bytes]) -> list[str]:
    """Return the notebooks in which a cell has not been run: outputs are to be handed in."""
    names = []
    for name, content in files.items():
        if name.endswith(".ipynb"):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                cells = [
                    cell for cell in json.loads(content)["cells"] if cell["cell_type"] == "code"
                ]
                if any(
                    "".join(cell["source"]).strip() and cell.get("execution_count") is None
                    for cell in cells
                ):
                    names.append(name)
    return names


def write_archive(archive: bytes, count: int) -> None:
    """Write the zip, whole or not at all, and say so; what it takes of the project is sound now."""
    from cli.process import print_line
    from errors import InputError
    from files.atomic import atomic_write

    try:
        with atomic_write(ROOT / ARCHIVE) as temporary:
            temporary.write_bytes(archive)
        print_line(f"{ARCHIVE}: {count} files, {len(archive) / 1000:.0f} kB")
    except InputError as error:
        raise SubmissionError(str(error)) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Check and write the zip. Return 0, or 2 when files are missing or wrong."""
    parser = argparse.ArgumentParser(description=f"Collect the submission into {ARCHIVE}.")
    parser.add_argument(
        "--code-only", action="store_true", help="leave out report.pdf and the notebooks"
    )
    options = parser.parse_args(argv)
    try:
        check_environment()
        files = read_files(ROOT, options.code_only)
        check_compiles(files)
        archive = zip_files(files)
        check_imports(archive)
        write_archive(archive, len(files))
    except SubmissionError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{parser.prog}: error: interrupted", file=sys.stderr)
        return 130
    if not options.code_only and "report.pdf" not in files:
        print(
            "without report.pdf, since it is not there: python writeup.py makes it", file=sys.stderr
        )
    for name in without_outputs(files):
        print(f"{name}: not all cells have been run; hand it in with all outputs", file=sys.stderr)
    return 0


if __name__ == "__main__":
    for name in ("SIGTERM", "SIGHUP"):  # unwind, so that the unpacked archive goes
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) != signal.SIG_IGN:
            signal.signal(getattr(signal, name), lambda number, _: sys.exit(128 + number))
    sys.exit(main())
