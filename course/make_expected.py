"""Compute data/expected.npz: what check.py's items measure on the solution, and on solutions with known mistakes.

    python course/make_expected.py

Prints for each item what its tolerance has to tell apart: how far the right solution of `mistakes.py`, written
differently, is from the reference, and how far the nearest mistake is.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import check
from course.make_starter import course_files, function_body, replace_body
from course.mistakes import MISTAKES, OTHER_WAYS, RIGHT
from files.atomic import atomic_write

ROOT = Path(__file__).resolve().parent.parent
Arrays = dict[str, np.ndarray]


def main() -> None:
    """Measure, print and store."""
    os.environ["OMP_NUM_THREADS"] = "1"
    arrays, mistakes = {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in course_files(ROOT).items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content)
        for item in check.ITEMS:
            values = measured(item, folder)
            arrays |= {f"{item.name}/{key}": value for key, value in values.items()}
            right = RIGHT.get(item.name) or function_body((ROOT / item.file).read_text(), item.function, item.file)
            ways = {"": []} | OTHER_WAYS.get(item.name, {})
            ways = {words: with_changes(item, folder, right, changes) for words, changes in ways.items()}
            wrong = MISTAKES.get(item.name, {})
            wrong = {words: with_changes(item, folder, right, [change]) for words, change in wrong.items()}
            for number, found in enumerate(wrong.values()):
                arrays |= {f"{item.name}~{number}/{key}": value for key, value in found.items()}
            mistakes[item.name] = list(wrong)
            report(item, values, ways, wrong)
    with atomic_write(check.EXPECTED) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, mistakes=json.dumps(mistakes), **arrays)
    print(f"{check.EXPECTED.name}: {check.EXPECTED.stat().st_size / 1000:.0f} kB")


def with_changes(item: check.Item, folder: Path, body: str, changes: list[tuple[str, str]]) -> Arrays:
    """Return what an item measures on the solution with a changed body in the place of its function's.

    Raises:
        ValueError: what is to be changed is not there.
    """
    for old, new in changes:
        if old not in body:
            raise ValueError(f"{item.name}: {old!r} is not in the right solution")
        body = body.replace(old, new)
    before = (folder / item.file).read_text()
    try:
        (folder / item.file).write_text(replace_body(before, item.function, body, item.file))
        return measured(item, folder)
    finally:
        (folder / item.file).write_text(before)


def measured(item: check.Item, folder: Path) -> Arrays:
    """Return an item's values, which no other finding may accompany."""
    found = check.measure(item, folder)
    if found.status != "ok" or found.findings:
        raise ValueError(f"{item.name}: {found.status} {found.words} {found.place} {found.findings}")
    return found.arrays


def report(item: check.Item, values: Arrays, ways: dict[str, Arrays], wrong: dict[str, Arrays]) -> None:
    """Print a row of the README's table: an item's tolerance, between the farthest right and the nearest wrong way."""
    if not wrong:
        return
    right, way = max((check.distance(found, values), words) for words, found in ways.items())
    nearest, mistake = min((check.distance(found, values), words) for words, found in wrong.items())
    print(
        f"| `{item.name}` | {right:.1e}, {way or 'as in mistakes.py'} | {item.tolerance:g} | {nearest:.2f}, {mistake} |"
    )


if __name__ == "__main__":
    main()
