"""Check a solution question by question against the reference's values.

    python check.py
    python check.py --only saliency_map grad_cam

Each item runs in a process of its own under a time limit, so whatever the code does that is
checked, the others go on. `checker/` holds the table of items and what runs there. This file starts
it, compares and prints, without torch.
"""

import ast
import atexit
import concurrent.futures
import contextlib
import io
import itertools
import json
import os
import re
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from checker.editions import ASSIGNMENT, TABLE, Function, files, recognised
from checker.items import EDITIONS, ELSEWHERE, ITEMS, Item, of_edition, place
from checker.server import MOST_BYTES, Server, ServerError
from cli.options import Parser, named_path
from cli.process import command, print_line, show_any_letter
from errors import InputError, cause, quoted
from files.atomic import atomic_write

ROOT = Path(__file__).resolve().parent
EXPECTED = ROOT / "data" / "expected.npz"
LACKING = "no picture shows"
MOST_LETTERS = 400  # of a message
# a known mistake is named where it is so much nearer than the reference and any other mistake
NEARER = 0.4
PATIENCE = 60.0  # seconds for one item; the reference takes up to 5
Arrays = dict[str, np.ndarray]  # "group/name" → values
FARTHEST = 16  # pixels that a map may be shifted by, to be told
TURNS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "left and right are exchanged": lambda whole: whole[:, ::-1],
    "top and bottom are exchanged": lambda whole: whole[::-1],
    "turned by 180°": lambda whole: whole[::-1, ::-1],
    "height and width are exchanged": lambda whole: whole.swapaxes(0, 1),
}


@dataclass
class Outcome:
    """What became of an item."""

    name: str
    question: str
    title: str
    status: str  # ok, wrong, missing or error
    message: str = ""  # one line: what was expected, what was found, where
    share: float = 0  # of what is compared, that is right


@dataclass
class Measured:
    """What an item's process has brought back."""

    status: str = "ok"
    message: str = ""
    place: str = ""  # file and line, where one is known
    findings: list[str] = field(default_factory=list)  # what is wrong beside the values
    remarks: list[str] = field(default_factory=list)  # what is not, but worth a word
    arrays: Arrays = field(default_factory=dict)


# --- Running an item ---

SERVER = Server()
atexit.register(SERVER.close)


def measure(
    item: Item,
    root: Path,
    patience: float = PATIENCE,
    inputs: dict | None = None,
    edition: str = ASSIGNMENT,
) -> Measured:
    """Run an item on the solution in a folder, in a process of its own.

    With other inputs than the students' where such are given.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        arguments = (item.name, edition, str(root), name, patience, inputs or {})
        try:
            end, report = SERVER.run(arguments, patience)
        except ServerError as error:
            return Measured("error", str(error))
        if end["late"]:
            message = f"not done after {patience:g} s: a loop without end, or many times too slow"
            return Measured("error", message, _last_place(folder, root))
        try:
            return _read(report)
        except Exception:  # the solution has ended the process, or has itself written something
            status = "" if end["status"] is None else f" with status {end['status']}"
            message = f"the process was ended{status} before the check was done"
            return Measured("error", message, _last_place(folder, root))


def _read(report: bytes) -> Measured:
    with zipfile.ZipFile(io.BytesIO(report)) as archive:
        if sum(info.file_size for info in archive.infolist()) > MOST_BYTES:
            raise ValueError("a report that no item makes")
    with np.load(io.BytesIO(report)) as file:
        arrays = dict(file)
    return Measured(**json.loads(str(arrays.pop("outcome"))), arrays=arrays)


def _last_place(folder: Path, root: Path) -> str:
    """Return where the solution was when time was up, from the stack that its process dumped."""
    with contextlib.suppress(OSError):
        for file, line in re.findall(r'File "(.+)", line (\d+)', (folder / "stack").read_text()):
            if Path(file).is_relative_to(root) and not Path(file).relative_to(root).parts[
                0
            ].startswith("check"):
                return f"{Path(file).relative_to(root).as_posix()} line {line}"
    return ""


# --- Comparing ---


class Expected:
    """The reference's values, and those of known mistakes."""

    def __init__(self, path: Path):
        """Read them.

        Raises:
            InputError: the file cannot be read, or holds something else.
        """
        try:
            with np.load(path) as file:
                self.arrays = dict(file)
            self.mistakes: dict[str, list[str]] = json.loads(str(self.arrays.pop("mistakes")))
            self.inputs: dict = json.loads(str(self.arrays.pop("inputs", "{}")))
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"cannot read values in {quoted(path)}: {cause(error)}") from error

    def values(self, name: str, mistake: int | None = None) -> Arrays:
        """Return what an item measures, "group/name" → array, right or with a known mistake."""
        prefix = f"{name}/" if mistake is None else f"{name}~{mistake}/"
        return {
            key.removeprefix(prefix): a for key, a in self.arrays.items() if key.startswith(prefix)
        }

    def diagnose(self, name: str, tolerance: float, found: Arrays) -> str:
        """Return what the values look like, in words; none where they look like nothing known.

        Args:
            name: of the values, by `Edition.values`.
            tolerance: the item's.
            found: what was measured.
        """
        if not all(np.isfinite(values).all() for values in found.values()):
            return "not finite (NaN or infinity)"
        reference = self.values(name)
        errors: dict[str, float] = {}  # of each known mistake, in whichever way it is made
        scaled: dict[str, float] = {}
        for number, mistake in enumerate(self.mistakes.get(name, [])):
            values = self.values(name, number)
            errors[mistake] = min(errors.get(mistake, np.inf), distance(found, values))
            scaled[mistake] = min(scaled.get(mistake, np.inf), scale(found, values)[1])
        nearest, *others = sorted(errors, key=lambda mistake: errors[mistake]) or [""]
        rivals = [distance(found, reference), *(errors[mistake] for mistake in others)]
        if errors.get(nearest, np.inf) < min(np.inf, max(tolerance, NEARER * min(rivals))):
            return nearest
        factor, error = scale(found, reference)
        if error <= tolerance:
            return f"{factor:.3g} times what they should be"
        # As of a loss that is a mean over the photos, or a sum; of steps the length is the mistake.
        like = min(scaled, key=lambda mistake: scaled[mistake], default="")
        if like and scaled[like] <= tolerance and "image/difference" not in reference:
            return like
        return displaced(found, reference, tolerance) or in_part(found, reference, tolerance)


def displaced(found: Arrays, reference: Arrays, tolerance: float) -> str:
    """Return where whole maps stand that are right but for their place, in words."""
    pairs = [
        (whole, reference[key.replace("whole", "maps")])
        for key, whole in found.items()
        if key.startswith("whole/")
    ]
    for words, turn in TURNS.items():
        if pairs and all(_moved(turn(a), b, 0, 0) <= tolerance for a, b in pairs):
            return f"right, but {words}"
    reach = range(-FARTHEST, FARTHEST + 1)
    errors = {
        (down, right): max(_moved(whole, wanted, down, right) for whole, wanted in pairs)
        for down, right in itertools.product(reach, reach if pairs else ())
    }
    (down, right), error = min(errors.items(), key=lambda item: item[1], default=((0, 0), np.inf))
    ways = [f"{abs(down)} {'down' if down > 0 else 'up'}"] * bool(down)
    ways += [f"{abs(right)} to the {'right' if right > 0 else 'left'}"] * bool(right)
    moved = ways and error <= tolerance
    return f"right, but shifted by {' and '.join(ways)}, in pixels" if moved else ""


def _moved(whole: np.ndarray, wanted: np.ndarray, down: int, right: int) -> float:
    """Return the relative error of a whole map's pixels where those that are stored have gone."""
    places = []
    for side, count, shift in zip(whole.shape, wanted.shape, (down, right), strict=False):
        there = np.arange(count) * -(-side // count) + shift
        places.append((there, (there >= 0) & (there < side)))
    (rows, above), (columns, beside) = places
    part = wanted[np.ix_(above, beside)]
    return relative_error(whole[np.ix_(rows[above], columns[beside])], part)


def in_part(found: Arrays, reference: Arrays, tolerance: float) -> str:
    """Return what is right about values that are wrong, in words."""
    errors = {
        key: relative_error(found[key], wanted) for key, wanted in reference.items() if key in found
    }
    right = [key.partition("/")[2] for key, error in errors.items() if error <= tolerance]
    if not right or len(errors) < 2 or any(key.startswith("own") for key in errors):
        return ""
    if "maps/0" in errors:
        photos = [str(int(name) + 1) for name in right if name.isdigit()]
        if len(photos) == len(errors) - 1 and "maps/places" in errors:
            return "right for the photos, not for a network whose gradient varies over the places"
        return f"right for photo {', '.join(photos)} only" if photos else ""
    return f"right: the {' and '.join(right)}"


def judge(
    item: Item, measured: Measured, expected: Expected, root: Path, edition: str = ASSIGNMENT
) -> Outcome:
    """Return the verdict on what was measured."""
    status, message, share = measured.status, measured.message, 0.0
    where = measured.place or _definition(root, place(edition, item.name))
    name = TABLE[edition].values(item.name)
    question, _ = item.editions.get(edition, ("", 0))
    if status == "ok":
        findings = list(measured.findings)
        if item.name.endswith("_captum"):
            findings = [*lacking_rows(item, measured.arrays, expected), *findings]
            figures = {key.partition("/")[0] for key in expected.values(name)}
            share = 1 - sum(finding.startswith(LACKING) for finding in findings) / len(figures)
        elif item.tolerance and not expected.values(name):
            return Outcome(item.name, question, item.title, "error", "no values are stored")
        elif measured.arrays or not findings:
            share = share_within(item.tolerance, measured.arrays, expected.values(name))
            error = distance(measured.arrays, comparable(expected.values(name), measured))
            if not error <= item.tolerance:
                diagnosis = expected.diagnose(name, item.tolerance, measured.arrays)
                numbers = f"the values differ from those expected by {error:.2g} of their size"
                findings.insert(
                    0,
                    f"{numbers} (allowed: {item.tolerance:g})" + f": {diagnosis}" * bool(diagnosis),
                )
        status = "wrong" if findings else "ok"
        message = "; ".join(findings or [f"remark: {remark}" for remark in measured.remarks])
    message = one_line(message)
    if status != "ok" and where:
        message = f"{message} ({where})"
    share *= 1 / (1 + len(measured.findings))  # a finding counts as much as all values
    return Outcome(item.name, question, item.title, status, message, round(share, 4))


def comparable(wanted: Arrays, measured: Measured) -> Arrays:
    """Return the values that are asked for; those that a finding explains may be lacking."""
    there = {key: array for key, array in wanted.items() if key in measured.arrays}
    return there if there and measured.findings else wanted


def one_line(text: str) -> str:
    """Return a solution's text on one line, shortened, without control characters."""
    text = " ".join(text[: 2 * MOST_LETTERS].split())[:MOST_LETTERS]
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def lacking_rows(item: Item, found: Arrays, expected: Expected) -> list[str]:
    """Return for each figure that no row shows what is there instead; "figure/way" → right row."""

    def is_drawn(wanted: np.ndarray) -> bool:
        return any(relative_error(row, wanted) <= item.tolerance for row in found.values())

    ways = expected.values(item.name)
    figures = dict.fromkeys(key.partition("/")[0] for key in ways)
    shown = {key.partition("/")[0] for key, wanted in ways.items() if is_drawn(wanted)}
    known = expected.mistakes.get(item.name, [])
    mistakes = [
        mistake
        for i, mistake in enumerate(known)
        if any(map(is_drawn, expected.values(item.name, i).values()))
    ]
    lacking = [f"{LACKING} {figure}" for figure in figures if figure not in shown]
    return lacking and [*mistakes, *lacking]


def distance(found: Arrays, wanted: Arrays) -> float:
    """Return the largest relative error in a group of arrays; of several groups the smallest."""
    errors: dict[str, float] = {}
    for key, values in wanted.items():
        group = key.partition("/")[0]
        error = relative_error(found[key], values) if key in found else np.inf
        errors[group] = max(errors.get(group, 0.0), error)
    return min(errors.values(), default=0.0)


def share_within(tolerance: float, found: Arrays, wanted: Arrays) -> float:
    """Return the share of arrays within a tolerance, of the group that fits best."""
    groups: dict[str, list[bool]] = {}
    for key, values in wanted.items():
        right = key in found and relative_error(found[key], values) <= tolerance
        groups.setdefault(key.partition("/")[0], []).append(right)
    return max((sum(right) / len(right) for right in groups.values()), default=1.0)


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return ‖found − wanted‖ / ‖wanted‖; infinity for other shapes and non-finite values."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    if found.shape != wanted.shape or not (np.isfinite(found) & np.isfinite(wanted)).all():
        return np.inf
    return float(np.linalg.norm(found - wanted) / max(np.linalg.norm(wanted), 1e-30))


def scale(found: Arrays, wanted: Arrays) -> tuple[float, float]:
    """Return the factor by which values are too large, and their distance without it."""
    best = 1.0, np.inf
    for group in dict.fromkeys(key.partition("/")[0] for key in wanted):
        part = {key: values for key, values in wanted.items() if key.startswith(f"{group}/")}
        pairs = [
            (found[key].ravel(), values.ravel()) for key, values in part.items() if key in found
        ]
        if any(a.shape != b.shape for a, b in pairs) or sum(a.size for a, _ in pairs) < 2:
            continue
        a, b = (np.concatenate(arrays).astype(np.float64) for arrays in zip(*pairs, strict=True))
        factor = float(a @ b / max(b @ b, 1e-30))
        error = distance({k: v / factor for k, v in found.items()}, part) if factor else np.inf
        best = min(best, (factor, error), key=lambda pair: pair[1])
    return best


def _definition(root: Path, function: Function) -> str:
    """Return the file and line where the student's function is."""
    path = next(files(root, function.file), None)
    if path is None:
        return function.file
    name = path.relative_to(root).as_posix()
    with contextlib.suppress(OSError, SyntaxError, ValueError, StopIteration):
        node: Any = ast.parse(path.read_bytes())
        for parts in (part.split("|") for part in function.name.split(".")):
            node = next(n for n in node.body if getattr(n, "name", None) in parts)
        return f"{name} line {node.lineno}"
    return name


# --- The command ---


def check(
    root: Path,
    items: Sequence[Item],
    patience: float = PATIENCE,
    jobs: int = 2,
    hidden: Expected | None = None,
    edition: str = ASSIGNMENT,
) -> Iterator[Outcome]:
    """Check a solution's items, a few at a time; yield the outcomes in order.

    With `hidden`, values for inputs that students do not have, an item is ok that is right for
    these; the students' values only help to tell what is wrong with it.
    """
    expected = Expected(EXPECTED)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes: one core each

    def verdict(item: Item, values: Expected) -> Outcome:
        measured = measure(item, root, patience, values.inputs, edition)
        return judge(item, measured, values, root, edition)

    def outcome(item: Item) -> Outcome:
        result = verdict(item, hidden or expected)
        if not hidden or result.status != "wrong":
            return result
        known = verdict(item, expected)
        if known.status == "wrong":
            return replace(known, share=result.share)
        return replace(result, message=f"right for the inputs of check.py alone: {result.message}")

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        pending = [pool.submit(outcome, item) for item in items]
        try:
            for future in pending:
                yield future.result()
        except (KeyboardInterrupt, SystemExit):
            SERVER.close()  # so that nobody waits for the items that run
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def check_edition(
    root: Path,
    items: Sequence[Item],
    edition: str,
    patience: float = PATIENCE,
    hidden: Expected | None = None,
) -> Iterator[Outcome]:
    """Check a solution of an edition, as `check` does."""
    yield from check(root, items, patience, hidden=hidden, edition=edition)


def make_parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(
        description="Check a solution, question by question, by the reference's values."
    )
    names = [item.name for item in (*ITEMS, *ELSEWHERE)]
    only = f"check these items alone: {', '.join(names)}"
    parser.add_argument("--only", nargs="+", choices=names, metavar="ITEM", help=only)
    parser.add_argument(
        "--edition", choices=EDITIONS, help="which (default: what the folder looks like)"
    )
    parser.add_argument(
        "--root", type=named_path, default=ROOT, metavar="FOLDER", help="a solution (default: this)"
    )
    parser.add_argument(
        "--limit",
        type=float,
        default=PATIENCE,
        metavar="SECONDS",
        help="for one item (default: 60)",
    )
    parser.add_argument(
        "--json", type=named_path, metavar="PATH", help="also write the outcomes to this file"
    )
    return parser


def write_json(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write the outcomes."""
    with atomic_write(path) as temporary:
        temporary.write_text(
            json.dumps([asdict(outcome) for outcome in outcomes], indent=1), "utf-8"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each item. Return 0 when all are ok, else 1; 2: nothing was checked."""
    show_any_letter()
    parser = make_parser()
    options = parser.parse_args(argv)
    if not EXPECTED.is_file():
        parser.error("data/expected.npz is missing; it comes with the starter")
    if not options.root.is_dir():
        parser.error(f"--root: there is no folder {str(options.root)!r}")
    if not 0 < options.limit < 1e6:
        parser.error(f"--limit: a number of seconds above 0 was expected, got {options.limit:g}")
    if options.json and (options.json.is_dir() or not options.json.absolute().parent.is_dir()):
        parser.error(f"--json: {str(options.json)!r} is a folder, or in none")
    edition = options.edition or recognised(options.root)
    if not edition:
        known = ", ".join(EDITIONS)
        parser.error(f"--root: {str(options.root)!r} looks like no edition; --edition: {known}")
    items = [item for item in of_edition(edition) if not options.only or item.name in options.only]
    outcomes: list[Outcome] = []
    with command(parser), contextlib.closing(SERVER.open()):
        root = options.root.resolve()
        for outcome in check_edition(root, items, edition, options.limit):
            outcomes.append(outcome)
            where = f"{outcome.question:4} {outcome.name:20}"
            print_line(f"{where} {outcome.status:8} {outcome.message}".rstrip())
        if options.json:
            write_json(options.json, outcomes)
        counts = [
            (sum(o.status == status for o in outcomes), status)
            for status in ("ok", "wrong", "missing", "error")
        ]
        number = f"{len(outcomes)} item{'s' * (len(outcomes) != 1)}"
        print_line(
            f"{number}: {', '.join(f'{count} {status}' for count, status in counts if count)}"
        )
    return 0 if all(outcome.status == "ok" for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
