"""Grade submissions: unpack each, put the course's files around it, check it, add up points.

python course/grade.py SUBMISSION.zip …
python course/grade.py SUBMISSION.zip --json results.json
python course/grade.py submissions/*.zip --csv points.csv --feedback feedback/

Submissions of any edition in `checker/editions.py` are recognised; those of one call are of one.
"""

import concurrent.futures
import contextlib
import csv
import fnmatch
import functools
import io
import itertools
import json
import os
import re
import secrets
import stat
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tqdm import tqdm

import check
from checker.editions import recognised
from checker.items import ASSIGNMENT, EDITIONS, HOMEWORK, UNASKED, Item, of_edition, place
from cli.options import Parser, named_path
from cli.process import advice, command, print_line, show_any_letter
from course.make_starter import LARGEST_SEED, course_files, hidden_values
from course.notebooks import submitted, thin_modules
from errors import InputError, cause, quoted
from files.atomic import atomic_write

ROOT = Path(__file__).resolve().parent.parent
MOST_FILES, MOST_BYTES = 1000, 50_000_000  # of a submission's code, unpacked
MOST_ZIPS = 4  # one inside the other
CODE = (".py", ".ipynb")  # all that is unpacked


def written(edition: str) -> frozenset[str]:
    """Return the files, or patterns of them, that students of an edition write."""
    files = (place(edition, item.name).file for item in of_edition(edition))
    return frozenset(pattern for of_item in files for pattern in of_item.split("|"))


STUDENTS = written(ASSIGNMENT)  # the files that are taken from the submission
WRITTEN = frozenset().union(*map(written, EDITIONS))
Reader = Callable[[int], bytes]  # of a file, up to a number of bytes


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
    notes: list[str] = field(default_factory=list)  # which folder was graded, what was left out
    course: str = ""  # whose extra credit counts as such

    @property
    def total(self) -> float:
        """All points together."""
        return sum(score.points for score in self.scores)

    @property
    def most(self) -> float:
        """The maximum, without extra credit."""
        return sum(score.most for score in self.scores if not self.is_extra(score))

    def is_extra(self, score: Score) -> bool:
        """Whether an item is extra credit here."""
        return bool(self.course) and score.item.extra == self.course


@dataclass(frozen=True)
class Rules:
    """How submissions are graded."""

    edition: str
    # Inputs that students do not have, and what is right for them; without, those of check.py.
    hidden: check.Expected | None = None
    strict: bool = False  # no points at all for code that prints what nobody asked for
    partial: bool = False  # an item's share of the points where it is not all right
    course: str = ""  # whose extra credit is left out of the maximum

    def points(self, outcome: check.Outcome, most: float) -> float:
        """Return an item's points."""
        if outcome.status == "ok":
            return most
        return round(most * outcome.share, 2) if self.partial and outcome.status == "wrong" else 0


def grade(path: Path, rules: Rules) -> Grade:
    """Grade a submission, a zip or a folder; its faults are in the result, never raised."""
    outcomes: dict[str, check.Outcome] = {}
    result = Grade(str(path), course=rules.course)
    items = of_edition(rules.edition)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve() / "submission"
        try:
            result.notes = unpack(path, folder, rules.edition)
            for outcome in check.check_edition(folder, items, rules.edition, hidden=rules.hidden):
                outcomes[outcome.name] = outcome
        except SubmissionError as error:
            result.error = check.one_line(str(error))
        except Exception as error:  # whatever a submission does is its own result
            result.error = check.one_line(f"cannot be graded: {type(error).__name__}: {error}")
    return scored(result, outcomes, rules)


def scored(result: Grade, outcomes: dict[str, check.Outcome], rules: Rules) -> Grade:
    """Add the points of the edition's items to a grade; outcomes: item → what the check says."""
    printing = rules.strict and any(UNASKED in outcome.message for outcome in outcomes.values())
    for item in of_edition(rules.edition):
        question, most = item.editions[rules.edition]
        points, message = 0.0, result.error
        if outcome := outcomes.get(item.name):
            points = rules.points(outcome, most)
            message = f"{outcome.status} {outcome.message}".strip()
        if printing:
            points, message = 0, f"{message}; no points, as the code prints {UNASKED}"
        result.scores.append(Score(item, question, most, points, message))
    return result


# --- The clean folder ---


def unpack(source: Path, folder: Path, edition: str = ASSIGNMENT) -> list[str]:
    """Write the students' part of a submission and the course's files into an empty folder.

    Raises:
        SubmissionError: it is no zip or folder, or holds none of the students' files.
    """
    try:
        with _members(source) as members:
            files, notes = _limited(members)
    except SubmissionError:
        raise
    except Exception as error:  # zipfile's own, of its decompressors, of names in no encoding, …
        raise SubmissionError(f"cannot be read: {cause(error)}") from error
    try:
        if edition == HOMEWORK:
            unpacked, where = _around_notebooks(files)
        else:
            unpacked, where = _around_code(files, edition)
    except SubmissionError as error:
        raise SubmissionError("; ".join([str(error), *notes])) from None
    notes += _write(unpacked, folder)
    return [check.one_line(note) for note in [*where, *notes]]


def _write(files: dict[str, bytes], folder: Path) -> list[str]:
    """Write files into a folder; return which could not be."""
    notes = []
    for name, content in files.items():
        target = folder / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        except (OSError, ValueError) as error:
            if advice(error):  # the machine's fault
                raise
            notes.append(f"left out: {name!r} cannot be written: {cause(error)}")
    return notes


def edition_of(sources: Iterable[Path]) -> str:
    """Return the edition that most submissions look like; our own where none looks like any."""
    seen = Counter(filter(None, map(_looks_like, sources)))
    return seen.most_common(1)[0][0] if seen else ASSIGNMENT


def _looks_like(source: Path) -> str:
    """Return the edition of the shallowest folder that looks like any; "" where none does."""
    try:
        with _members(source) as members:
            files, _ = _limited(members)
    except Exception:  # which is told when it is graded
        return ""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        _write(files, Path(name))
        folders = {Path(name, file).parent for file in files}
        folders |= {folder.parent for folder in folders} - {Path(name).parent}
        ordered = sorted(folders, key=lambda folder: (len(folder.parts), folder))
        return next(filter(None, map(recognised, filter(Path.is_dir, ordered))), "")


@functools.cache
def _ours() -> dict[str, bytes]:
    """Return the course's files, read once for all submissions."""
    return course_files(ROOT)


def _around_code(files: dict[str, bytes], edition: str) -> tuple[dict[str, bytes], list[str]]:
    """Return a submission's code, and the course's files for all that students do not write.

    Those of other courses' editions are not ours: there the submission's own come first.
    """
    students = written(edition)
    tops = _top_folders(files, students)
    top = tops[0]
    submission = {
        name.removeprefix(top): content for name, content in files.items() if name.startswith(top)
    }
    given = {
        name: content
        for name, content in _ours().items()
        if name not in STUDENTS and _top(name, students) is None
    }
    notes = [f"graded is the folder {top!r}"] if top else []
    notes += [f"not graded: {', '.join(map(repr, tops[1:]))}"] if tops[1:] else []
    ours_first = edition in (ASSIGNMENT, "a3")
    return submission | given if ours_first else given | submission, notes


def _around_notebooks(files: dict[str, bytes]) -> tuple[dict[str, bytes], list[str]]:
    """Return a submission's notebooks, with the course's files around them, and which they are.

    Raises:
        SubmissionError: there are none.
    """
    found = submitted(files)
    if not found:
        raise SubmissionError("holds no notebook, such as NetworkVisualization-Pytorch.ipynb")
    notebooks = {place: files[name] for place, name in found.items()}
    notes = [f"graded are {', '.join(map(repr, found.values()))}"]
    return _ours() | thin_modules(ROOT) | notebooks, notes


def _limited(members: Iterable[tuple[str, Reader | None]]) -> tuple[dict[str, bytes], list[str]]:
    """Read a submission's code, what students write first, as far as the limits allow.

    Args:
        members: path, and what reads up to a number of bytes; None where it is not to be trusted.

    Returns:
        path → content, and what was left out.
    """
    files: dict[str, bytes] = {}
    unsafe, beyond, left, damaged = 0, 0, MOST_BYTES, []
    for name, read in sorted(members, key=lambda member: _order(member[0])):
        if read is None:
            unsafe += 1
        elif len(files) == MOST_FILES:
            beyond += 1
        else:
            try:
                content = read(left + 1)
            except Exception as error:  # zipfile's own, of its decompressors, …
                damaged.append(f"left out: {name!r} cannot be read: {cause(error)}")
                continue
            if len(content) > left:
                beyond += 1
            else:
                files[name] = content
                left -= len(content)
    notes = [f"{unsafe} left out: links, or paths that lead outside"] if unsafe else []
    limits = f"{MOST_FILES} files or {MOST_BYTES // 1_000_000} MB of code"
    return files, [*notes, *([f"{beyond} left out: beyond {limits}"] if beyond else []), *damaged]


@contextlib.contextmanager
def _members(source: Path) -> Iterator[Iterable[tuple[str, Reader | None]]]:
    """Open a zip or a folder and give what `_limited` takes."""
    if source.is_file():
        with zipfile.ZipFile(source) as archive, contextlib.ExitStack() as stack:
            for _ in range(MOST_ZIPS):
                names = archive.namelist()
                inner = [] if any(map(_is_code, names)) else [*filter(_is_zip, names)]
                if len(inner) > 1:
                    raise SubmissionError(f"holds zips and no code: {', '.join(map(repr, inner))}")
                if not inner:
                    break
                with archive.open(inner[0]) as file:
                    content = io.BytesIO(file.read(MOST_BYTES))
                archive = stack.enter_context(zipfile.ZipFile(content))
            yield _zip_files(archive)
    elif source.is_dir():
        yield _folder_files(source)
    else:
        raise SubmissionError("there is no such zip or folder")


def _zip_files(archive: zipfile.ZipFile) -> Iterator[tuple[str, Reader | None]]:
    """Yield the code of a zip, whatever that says of its sizes."""

    def reader(info: zipfile.ZipInfo) -> Reader:
        def read(most: int) -> bytes:
            with archive.open(info) as file:
                return file.read(most)

        return read

    for info in archive.infolist():
        name = info.filename.replace("\\", "/")  # as Windows' own zips have it
        if _is_code(name):
            unsafe = stat.S_ISLNK(info.external_attr >> 16) or not _is_inside(name)
            yield (name, None) if unsafe else (str(PurePosixPath(name)), reader(info))


def _folder_files(folder: Path) -> Iterator[tuple[str, Reader | None]]:
    """Yield the code of a folder, as Gradescope has unpacked it."""

    def reader(path: Path) -> Reader:
        def read(most: int) -> bytes:
            with path.open("rb") as file:
                return file.read(most)

        return read

    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if _is_code(name) and not path.is_dir():
            yield name, reader(path) if path.is_file() and not path.is_symlink() else None


def _is_code(name: str) -> bool:
    """Whether a file is code, and not of a hidden folder or one that a system has made."""
    parts = PurePosixPath(name).parts
    return name.endswith(CODE) and not any(
        part.startswith((".", "__")) and part not in (".", "..", "__init__.py") for part in parts
    )


def _is_zip(name: str) -> bool:
    """Whether a file is a zip, and no system's own."""
    return name.lower().endswith(".zip") and not PurePosixPath(name).name.startswith("._")


def _order(name: str) -> tuple[bool, int, str]:
    """Return what sorts files: those that students write first, and the shallowest."""
    return _top(name, WRITTEN) is None, name.count("/"), name


def _is_inside(name: str) -> bool:
    """Whether a path stays inside the folder that it is unpacked into."""
    path = PurePosixPath(name)
    return not (path.is_absolute() or ".." in path.parts or ":" in name or "\0" in name)


def _top(name: str, patterns: Iterable[str]) -> str | None:
    """Return the folder, "" or "name/", that holds a file by one of the patterns; else None."""
    for pattern in sorted(patterns, key=lambda pattern: -pattern.count("/")):
        tail = "/".join(name.split("/")[-1 - pattern.count("/") :])
        if fnmatch.fnmatchcase(tail, pattern):
            return name.removesuffix(tail)
    return None


def _top_folders(files: Iterable[str], students: frozenset[str]) -> list[str]:
    """Return the folders of students' files, "" or "name/", the one to be graded first.

    That is the shallowest of those that hold at least half as many of them as the fullest.

    Raises:
        SubmissionError: there are none.
    """
    packages = tuple({f"{PurePosixPath(own).parent}/" for own in students if "/" in own})
    tops = [top for name in files if (top := _top(name, students)) is not None]
    counts = {top: tops.count(top) for top in tops if not top.endswith(packages)}
    if not counts:
        raise SubmissionError(
            f"holds none of the files that students write, such as {max(students)}"
        )
    most = max(counts.values())
    return sorted(counts, key=lambda top: (2 * counts[top] < most, top.count("/"), top))


def stored(path: Path) -> check.Expected:
    """Return hidden inputs and their values, as `hidden.py` writes them.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    try:
        expected = check.Expected(path)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read {quoted(path)}: {cause(error)}") from error
    except KeyError:
        expected = None
    if not expected or not expected.inputs:
        raise InputError(f"{quoted(path)} holds no inputs; course/hidden.py makes such a file")
    return expected


def drawn(seed: int, edition: str) -> check.Expected:
    """Return hidden inputs, and the values that the solution in this repository gives for them.

    Raises:
        InputError: it gives none.
    """
    print(f"drawing inputs: --seed {seed}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "hidden.npz"
        path.write_bytes(hidden_values(seed, edition))
        return stored(path)


def grade_all(paths: Sequence[Path], rules: Rules, jobs: int) -> Iterator[Grade]:
    """Grade submissions, a few at a time; yield each as soon as it and those before it are done."""
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        pending = [pool.submit(grade, path, rules) for path in paths]
        try:
            for future in tqdm(pending, desc="grading", disable=None):
                yield future.result()
        except (KeyboardInterrupt, SystemExit):
            check.SERVER.close()  # so that nobody waits for those that are being graded
            raise
        finally:  # interrupted: the others are not begun
            pool.shutdown(wait=False, cancel_futures=True)


# --- What comes out ---


def table(result: Grade) -> str:
    """Return the points of a submission as lines of text."""
    lines = [check.one_line(result.name), *(f"  {note}" for note in result.notes)]
    for score in result.scores:
        points = f"{score.points:4g} / {score.most:<4g}"
        extra = "(extra credit) " * result.is_extra(score)
        lines.append(
            f"  {score.question:4} {score.item.title:30} {points} {extra}{score.message}".rstrip()
        )
    total = f"  {'':4} {'total':30} {result.total:4g} / {result.most:<4g}"
    return "\n".join([*lines, total.rstrip()])


def gradescope(result: Grade) -> dict:
    """Return the points as Gradescope's autograder takes them."""
    tests = [
        {
            "name": score.item.title,
            "number": score.question,
            "score": score.points,
            "max_score": 0 if result.is_extra(score) else score.most,
            "output": score.message,
            "visibility": "visible",
        }
        for score in result.scores
    ]
    return {
        "output": "\n".join(filter(None, [result.error, *result.notes])),
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "tests": tests,
    }


def write_json(path: Path, result: Grade) -> None:
    """Write Gradescope's results.json."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(gradescope(result), indent=1), encoding="utf-8")


def row_of(result: Grade) -> list[str | float]:
    """Return a submission's row: path, total, points by item, and comments."""
    comments = [
        f"{score.item.name}: {score.message}"
        for score in result.scores
        if score.points < score.most
    ]
    comments = [*result.notes, *([] if result.error else comments)]
    cells = [result.name, result.error, "; ".join(comments)]
    name, error, comment = (
        f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t") else text for text in cells
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


def write_feedback(folder: Path, result: Grade, taken: set[str]) -> None:
    """Write what a student is told to a text file named by the submission's path.

    `taken`: the names in use, to which this one is added; a name that comes again is numbered.

    Raises:
        InputError: it cannot be written.
    """
    parts = Path(result.name).with_suffix("").parts if result.name.endswith(".zip") else ()
    name = "_".join(re.sub(r"[^\w.-]+", "_", part) for part in parts or Path(result.name).parts)
    name = name.strip("._")[-100:]
    numbered = (name if i == 1 else f"{name}_{i}" for i in itertools.count(1))
    chosen = next(each for each in numbered if each.casefold() not in taken)  # as on Windows
    taken.add(chosen.casefold())
    with atomic_write(folder / f"{chosen}.txt") as temporary:
        temporary.write_text(f"{table(result)}\n", "utf-8", "backslashreplace")


def make_folder(path: Path) -> None:
    """Make a folder where there is none.

    Raises:
        InputError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {quoted(path)}: {cause(error)}") from error


def make_parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(description="Grade submissions.")
    add = parser.add_argument
    add("submissions", nargs="+", type=named_path, metavar="SUBMISSION", help="a zip, or a folder")
    text = "whose points (default: what most submissions look like)"
    add("--edition", choices=EDITIONS, help=text)
    courses = sorted({item.extra for item in of_edition(HOMEWORK)} - {""})
    text = "of the homework: whose extra credit is left out of the maximum"
    add("--course", choices=courses, default="", help=text)
    text = "no points at all for code that prints what nobody asked for"
    add("--strict", action="store_true", help=text)
    text = "of an item that is wrong, the share of the points that its right values have"
    add("--partial", action="store_true", help=text)
    source = parser.add_mutually_exclusive_group()
    text = "draws the inputs, which students do not have (default: another one each time)"
    source.add_argument("--seed", type=int, metavar="N", help=text)
    text = "inputs and values that course/hidden.py has stored, where there is no solution"
    source.add_argument("--values", type=named_path, metavar="PATH", help=text)
    text = (
        "so many submissions at once, on two cores each (default: as many as there are cores for)"
    )
    add("--jobs", type=int, default=max(1, (os.cpu_count() or 1) // 2), metavar="N", help=text)
    text = "Gradescope's results.json; of one submission"
    add("--json", type=named_path, metavar="PATH", help=text)
    text = "a line per submission, as soon as it is known"
    add("--csv", type=named_path, metavar="PATH", help=text)
    text = "a text file per submission, for its student"
    add("--feedback", type=named_path, metavar="FOLDER", help=text)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Grade, print and write. Return 0, or 2 where a submission could not be graded."""
    show_any_letter()
    parser = make_parser()
    options = parser.parse_args(argv)
    if options.json and len(options.submissions) > 1:
        parser.error("--json: Gradescope's format holds one submission; use --csv for several")
    if options.jobs < 1:
        parser.error(f"--jobs: a number from 1 was expected, got {options.jobs}")
    if options.seed is not None and not 0 < options.seed <= LARGEST_SEED:
        parser.error(f"--seed: a number from 1 to {LARGEST_SEED} was expected, got {options.seed}")
    os.environ["SQUEEZENET_WEIGHTS"] = "bundled"
    failed = False
    with command(parser), contextlib.closing(check.SERVER.open()):
        edition = options.edition or edition_of(options.submissions)
        if options.course and edition != HOMEWORK:
            raise InputError("--course: only the homework has extra credit; --edition homework")
        taken: set[str] = set()  # names of the feedback's files
        if options.feedback:
            make_folder(options.feedback)
        if edition != (options.edition or ASSIGNMENT):
            print(f"recognised: --edition {edition}", file=sys.stderr)
        rows = Table(options.csv, edition) if options.csv else None
        seed = options.seed or 1 + secrets.randbelow(LARGEST_SEED)
        hidden = stored(options.values) if options.values else drawn(seed, edition)
        rules = Rules(edition, hidden, options.strict, options.partial, options.course)
        for result in grade_all(options.submissions, rules, options.jobs):
            failed = failed or bool(result.error)
            try:  # files first: a screen may have gone
                if rows:
                    rows.add(result)
                if options.feedback:
                    write_feedback(options.feedback, result, taken)
                if options.json:
                    write_json(options.json, result)
            finally:
                print_line(f"{table(result)}\n")
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
