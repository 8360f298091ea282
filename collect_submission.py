"""Collect the submission: assignment_3_submission.zip, checked before it is written. Same files, same bytes.

Standard library only, and nothing of the project's: a broken file there must be named, not stumbled over.
"""

import argparse
import contextlib
import importlib.util
import io
import os
import subprocess
import sys
import tempfile
import traceback
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
ARCHIVE = "assignment_3_submission.zip"
CODE = ("*.py", "cli/*.py", "files/*.py", "report/*.py", "style_modules/*.py", "visualizers/*.py")
DOCUMENTS = ("report.pdf", "notebooks/*.ipynb")

# What must be in the zip for the questions to run from it; each of these must also import.
REQUIRED = (
    "saliency_map.py",
    "gradcam.py",
    "fooling_image.py",
    "class_visualization.py",
    "style_transfer.py",
    "sanity_checks.py",
    "writeup.py",
    "files/bundled_weights.py",
    "captum_utils.py",
    "files/checkpoints.py",
    "files/course.py",
    "data_utils.py",
    "cli/arrays.py",
    "errors.py",
    "report/fonts.py",
    "report/markdown.py",
    "figure_utils.py",
    "files/atomic.py",
    "image_utils.py",
    "model_utils.py",
    "cli/process.py",
    "report/pages.py",
    "cli/options.py",
    "cli/run.py",
    "cli/session.py",
    "style_utils.py",
    "style_modules/__init__.py",
    "style_modules/content_loss.py",
    "style_modules/rules.py",
    "style_modules/style_loss.py",
    "style_modules/tv_loss.py",
    "visualizers/__init__.py",
    "visualizers/class_visualization.py",
    "visualizers/common.py",
    "visualizers/fooling_image.py",
    "visualizers/gradcam.py",
    "visualizers/layers.py",
    "visualizers/saliency_map.py",
    "visualizers/sanity.py",
)
PATIENCE = 300  # seconds for the imports, most of which torch takes
UNPACKED_CHECK = "import sys; sys.path.insert(0, ''); import collect_submission as c; c.report_imports()"


class SubmissionError(Exception):
    """Why there is no submission, on one line."""


def read_files(root: Path, code_only: bool = False) -> dict[str, bytes]:
    """Read the files that belong in the submission: path in the zip → content, in a fixed order.

    Raises:
        SubmissionError: a required file is missing, or one cannot be read.
    """
    patterns = CODE if code_only else CODE + DOCUMENTS
    paths = sorted(p for pattern in patterns for p in root.glob(pattern) if p.is_file() and p.name[0] != ".")
    try:
        files = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
    except OSError as error:
        raise SubmissionError(f"cannot read {error.filename}: {error.strerror}") from error
    missing = [name for name in REQUIRED if name not in files]
    if missing:
        raise SubmissionError(f"missing from the project: {', '.join(missing)}")
    return files


def check_compiles(files: dict[str, bytes]) -> None:
    """Compile every .py file without running it.

    Raises:
        SubmissionError: it names each file that does not compile, and the line.
    """
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
            info.create_system, info.external_attr = 3, 0o644 << 16  # a plain file of Unix, made on whatever system
            archive.writestr(info, content)
    return buffer.getvalue()


def check_imports(archive: bytes) -> None:
    """Unpack the archive into an empty folder and import the required modules there, in a process of its own.

    Raises:
        SubmissionError: it names each file that does not import, the line and the error.
    """
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(io.BytesIO(archive)).extractall(folder)
        command = [sys.executable, "-B", "-c", UNPACKED_CHECK]
        how: dict[str, Any] = {"cwd": folder, "stdin": subprocess.DEVNULL, "timeout": PATIENCE, "encoding": "utf-8"}
        any_letter = {**os.environ, "PYTHONIOENCODING": "utf-8:backslashreplace"}
        try:
            check = subprocess.run(command, capture_output=True, env=any_letter, **how)
        except subprocess.TimeoutExpired:
            raise SubmissionError(f"the imports take more than {PATIENCE} s: nothing should run at import") from None
    problems = check.stdout.splitlines()
    if check.returncode and not problems:
        problems = check.stderr.splitlines()[-1:] or [f"the import check ended with status {check.returncode}"]
    if problems:
        raise SubmissionError(f"does not import from the zip: {'; '.join(problems)}")


def report_imports() -> None:
    """Import every required module and print a line for each file that fails; this runs in the unpacked archive."""
    problems = []
    for name in REQUIRED:
        try:
            with contextlib.redirect_stdout(sys.stderr):
                importlib.import_module(name.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
        except BaseException as error:  # SystemExit too: a module that ends the program is of no use
            problems.append(f"{_origin(error) or name}: {' '.join(f'{type(error).__name__}: {error}'.split())}")
    print(*dict.fromkeys(problems), sep="\n", end="")


def _origin(error: BaseException) -> str:
    """Return the innermost line of this project that an exception passed through."""
    places = [
        f"{Path(frame.filename).relative_to(ROOT).as_posix()} line {frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(ROOT) and frame.filename != __file__
    ]
    return places[-1] if places else ""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all.

    Raises:
        SubmissionError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise SubmissionError(f"cannot write {path}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Check and write the zip. Returns the exit status: 0, or 2 when something is wrong with the files."""
    parser = argparse.ArgumentParser(description=f"Collect the submission into {ARCHIVE}.")
    parser.add_argument("--code-only", action="store_true", help="leave out report.pdf and the notebooks")
    options = parser.parse_args(argv)
    try:
        files = read_files(ROOT, options.code_only)
        check_compiles(files)
        archive = zip_files(files)
        check_imports(archive)
        write_whole(ROOT / ARCHIVE, archive)
    except SubmissionError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{parser.prog}: error: interrupted", file=sys.stderr)
        return 130
    print(f"{ARCHIVE}: {len(files)} files, {len(archive) / 1000:.0f} kB")
    if not options.code_only and "report.pdf" not in files:
        print("without report.pdf, since it is not there: python writeup.py makes it", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
