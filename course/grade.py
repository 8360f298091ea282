"""Grade submissions: unpack each into a clean folder, put the course's own files around it, check
it, add up points.

python course/grade.py SUBMISSION.zip …
python course/grade.py SUBMISSION.zip --json results.json
python course/grade.py submissions/*.zip --csv points.csv
"""

import concurrent.futures
import csv
import json
import os
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tqdm import tqdm

import check
from checker.items import ASSIGNMENT, EDITIONS, HOMEWORK, UNASKED, Item, of_edition
from cli.options import Parser, named_path
from cli.process import print_line, show_any_letter, unwinding_signals
from course.make_starter import BLANKS, course_files
from course.notebooks import submitted, thin_modules
from errors import InputError, cause, quoted
from files.atomic import atomic_write

ROOT = Path(__file__).resolve().parent.parent
MOST_FILES, MOST_BYTES = 1000, 50_000_000  # in a submission, unpacked
PATIENCE = 900  # seconds for all items of a submission
STUDENTS = frozenset(item.file for item in BLANKS)  # the files that are taken from the submission


class SubmissionError(Exception):
    """Why a submission cannot be graded, on one line."""


@dataclass
class Score:
    """The points of an item."""

    item: Item
    question: str
    most: float
    points: float
    message: str  # what the check says


@dataclass
class Grade:
    """The points of a submission."""

    name: str
    scores: list[Score] = field(default_factory=list)
    error: str = ""  # why nothing could be checked

    @property
    def total(self) -> float:
        """All points together."""
        return sum(score.points for score in self.scores)


def grade(path: Path, edition: str, strict: bool = False) -> Grade:
    """Grade a submission, a zip or a folder. What is wrong with it is in the result, never raised.

    With `strict`, whoever prints what nobody asked for gets no points at all, as assignment 3 has
    it.
    """
    outcomes, problem = {}, ""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name) / "submission"
        try:
            unpack(path, folder, edition)
            outcomes = checked(folder, Path(name), edition)
        except SubmissionError as error:
            problem = str(error)
        except Exception as error:
            # Whatever a submission does is its own result, never the others'
            problem = f"cannot be graded: {type(error).__name__}: {error}"
    problem = check.one_line(problem)
    result = Grade(str(path), error=problem)
    printing = strict and any(UNASKED in outcome["words"] for outcome in outcomes.values())
    for item in of_edition(edition):
        question, most = item.editions[edition]
        outcome = outcomes.get(item.name)
        message = f"{outcome['status']} {outcome['words']}".strip() if outcome else problem
        points = most if outcome and outcome["status"] == "ok" else 0
        if printing:
            points, message = 0, f"{message}; no points, as the code prints {UNASKED}"
        result.scores.append(Score(item, question, most, points, message))
    return result


# --- The clean folder ---


def unpack(source: Path, folder: Path, edition: str = ASSIGNMENT) -> None:
    """Write the students' part of a submission into an empty folder, and the course's files around
    it.
    """
    try:
        files = dict(_zip_files(source) if source.is_file() else _folder_files(source))
    except SubmissionError:
        raise
    except Exception as error:  # zipfile's own, of its decompressors, of names in no encoding, …
        raise SubmissionError(
            f"cannot be read: {' '.join(str(error).split()) or type(error).__name__}"
        ) from error
    around = _around_notebooks if edition == HOMEWORK else _around_code
    for name, content in around(files).items():
        target = folder / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        except OSError as error:
            raise SubmissionError(f"{name!r} cannot be written: {error.strerror}") from error


def _around_code(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return a submission's code, with the course's files in the places of all that students do not
    write.
    """
    top = _top_folder(files)
    own = {
        name.removeprefix(top): content for name, content in files.items() if name.startswith(top)
    }
    given = {name: content for name, content in course_files(ROOT).items() if name not in STUDENTS}
    return {name: content for name, content in own.items() if name.endswith(".py")} | given


def _around_notebooks(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return a submission's notebooks, with the course's files around them."""
    notebooks = {place: files[name] for place, name in submitted(files).items()}
    if not notebooks:
        raise SubmissionError("holds no notebook, such as NetworkVisualization-Pytorch.ipynb")
    return course_files(ROOT) | thin_modules(ROOT) | notebooks


def _zip_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a zip, read under the limits whatever its table of contents says."""
    with zipfile.ZipFile(path) as archive:
        members = [info for info in archive.infolist() if not info.is_dir()]
        if len(members) > MOST_FILES:
            raise SubmissionError(f"holds {len(members)} files; at most {MOST_FILES} are unpacked")
        left = MOST_BYTES
        for info in members:
            if stat.S_ISLNK(info.external_attr >> 16):
                raise SubmissionError(f"holds a link, {info.filename!r}")
            name = _safe_name(info.filename)
            with archive.open(info) as file:
                content = file.read(left + 1)
            left -= len(content)
            if left < 0:
                raise SubmissionError(f"unpacks to more than {MOST_BYTES // 1_000_000} MB")
            yield name, content


def _folder_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the code of a folder, as Gradescope has unpacked it."""
    if not folder.is_dir():
        raise SubmissionError("there is no such zip or folder")
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".ipynb"))
    paths = [path for path in paths if path.is_file() and not path.is_symlink()]
    if len(paths) > MOST_FILES or sum(path.stat().st_size for path in paths) > MOST_BYTES:
        raise SubmissionError("is too large")
    for path in paths:
        yield path.relative_to(folder).as_posix(), path.read_bytes()


def _safe_name(name: str) -> str:
    """Return a member's path, which stays inside the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name:
        raise SubmissionError(f"holds a path that leads outside, {name!r}")
    return str(path)


def _top_folder(files: dict[str, bytes]) -> str:
    """Return the folder in the zip that the students' files lie in, "" or "name/", whichever holds
    most of them.
    """
    tops = [
        name.removesuffix(own)
        for name in files
        for own in STUDENTS
        if name == own or name.endswith(f"/{own}")
    ]
    tops = [top for top in tops if not top.startswith("__MACOSX") and top.count("/") <= 3]
    if not tops:
        raise SubmissionError(
            "holds none of the files that students write, such as visualizers/saliency_map.py"
        )
    return max(sorted(set(tops)), key=tops.count)


def checked(folder: Path, scratch: Path, edition: str = ASSIGNMENT) -> dict[str, dict]:
    """Return what the course's check.py says of a folder: item → outcome."""
    result = scratch / "outcomes.json"
    command = [sys.executable, str(ROOT / "check.py"), "--root", str(folder), "--json", str(result)]
    command += ["--edition", edition]
    environment = {**os.environ, "SQUEEZENET_WEIGHTS": "bundled", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command,
            cwd=scratch,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
        )
        return {outcome["name"]: outcome for outcome in json.loads(result.read_text("utf-8"))}
    except subprocess.TimeoutExpired:
        raise SubmissionError(f"the check took more than {PATIENCE} s") from None
    except (OSError, ValueError) as error:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise SubmissionError(f"the check failed: {' '.join(said) or error}") from error


def grade_all(paths: Sequence[Path], edition: str, strict: bool = False) -> Iterator[Grade]:
    """Grade submissions, a few at a time; yield each as soon as it and those before it are done."""
    jobs = max(1, (os.cpu_count() or 1) // 2)  # a check uses two cores
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        pending = [pool.submit(grade, path, edition, strict) for path in paths]
        try:
            for future in tqdm(pending, desc="grading", disable=None):
                yield future.result()
        finally:  # interrupted: the others are not begun
            pool.shutdown(wait=False, cancel_futures=True)


# --- What comes out ---


def table(result: Grade) -> str:
    """Return the points of a submission as lines of text."""
    lines = [check.one_line(result.name)]
    for score in result.scores:
        points = f"{score.points:4g} / {score.most:<4g}"
        extra = "(extra credit) " * score.item.extra
        lines.append(
            f"  {score.question:4} {score.item.title:30} {points} {extra}{score.message}".rstrip()
        )
    most = sum(score.most for score in result.scores if not score.item.extra)
    return "\n".join([*lines, f"  {'':4} {'total':30} {result.total:4g} / {most:<4g}".rstrip()])


def gradescope(result: Grade) -> dict:
    """Return the points as Gradescope's autograder takes them."""
    tests = [
        {
            "name": score.item.title,
            "number": score.question,
            "score": score.points,
            "max_score": 0 if score.item.extra else score.most,
            "output": score.message,
            "visibility": "visible",
        }
        for score in result.scores
    ]
    return {
        "output": result.error,
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "tests": tests,
    }


def write_json(path: Path, result: Grade) -> None:
    """Write Gradescope's results.json."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(gradescope(result), indent=1), encoding="utf-8")


def row_of(result: Grade) -> list[str | float]:
    """Return a submission's row: path, total, the points of each item, what the check says of the
    others.
    """
    comments = [
        f"{score.item.name}: {score.message}"
        for score in result.scores
        if score.points < score.most
    ]
    words = [result.name, result.error, "" if result.error else "; ".join(comments)]
    name, error, comment = (
        f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t") else text for text in words
    )
    return [name, result.total, *(score.points for score in result.scores), error, comment]


class Table:
    """A CSV file that holds each row as soon as it is known."""

    def __init__(self, path: Path, edition: str):
        """Begin the file with its head."""
        self.path = path
        self._write(
            "w",
            [
                "submission",
                "total",
                *(item.name for item in of_edition(edition)),
                "error",
                "comments",
            ],
        )

    def add(self, result: Grade) -> None:
        """Add a submission's row."""
        self._write("a", row_of(result))

    def _write(self, mode: str, row: Sequence[str | float]) -> None:
        try:
            with self.path.open(
                mode, newline="", encoding="utf-8", errors="backslashreplace"
            ) as file:
                csv.writer(file).writerow(row)
        except OSError as error:
            raise InputError(f"cannot write {quoted(self.path)}: {cause(error)}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Grade, print and write. Returns the exit status: 0, or 2 where a submission could not be
    graded.
    """
    show_any_letter()
    parser = Parser(description="Grade submissions.")
    parser.add_argument(
        "submissions", nargs="+", type=named_path, metavar="SUBMISSION", help="a zip, or a folder"
    )
    parser.add_argument(
        "--edition",
        choices=EDITIONS,
        default=EDITIONS[0],
        help="whose points (default: %(default)s)",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="no points at all for code that prints what nobody asked for",
    )
    parser.add_argument(
        "--json",
        type=named_path,
        metavar="PATH",
        help="Gradescope's results.json; of one submission",
    )
    parser.add_argument(
        "--csv",
        type=named_path,
        metavar="PATH",
        help="a line per submission, as soon as it is known",
    )
    options = parser.parse_args(argv)
    if options.json and len(options.submissions) > 1:
        parser.error("--json: Gradescope's format holds one submission; use --csv for several")
    failed = False
    try:
        with unwinding_signals():
            rows = Table(options.csv, options.edition) if options.csv else None
            for result in grade_all(options.submissions, options.edition, options.strict):
                failed = failed or bool(result.error)
                try:  # files first: a screen may have gone
                    if rows:
                        rows.add(result)
                    if options.json:
                        write_json(options.json, result)
                finally:
                    print_line(f"{table(result)}\n")
    except InputError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print(f"{parser.prog}: error: interrupted", file=sys.stderr)
        return 130
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
