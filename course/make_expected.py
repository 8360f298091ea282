"""Compute data/expected.npz: what check.py's items measure on the solution, and on solutions with known mistakes.

python course/make_expected.py
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import check
from checker.items import ITEMS, Item
from course.make_starter import course_files, function_body, replace_body
from course.mistakes import MISTAKES, RIGHT
from files.atomic import atomic_write

ROOT = Path(__file__).resolve().parent.parent
Arrays = dict[str, np.ndarray]


def main() -> None:
    """Measure and store."""
    os.environ["OMP_NUM_THREADS"] = "1"
    arrays, mistakes = {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in course_files(ROOT).items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content)
        for item in ITEMS:
            values = measured(item, folder)
            arrays |= {f"{item.name}/{key}": value for key, value in values.items()}
            right = RIGHT.get(item.name) or function_body((ROOT / item.file).read_text(), item.function, item.file)
            known = MISTAKES.get(item.name, {})
            for number, change in enumerate(known.values()):
                found = with_change(item, folder, right, *change)
                arrays |= {f"{item.name}~{number}/{key}": value for key, value in found.items()}
            mistakes[item.name] = list(known)
    with atomic_write(check.EXPECTED) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, mistakes=json.dumps(mistakes), **arrays)
    print(f"{check.EXPECTED.name}: {check.EXPECTED.stat().st_size / 1000:.0f} kB")


def with_change(item: Item, folder: Path, body: str, old: str, new: str) -> Arrays:
    """Return what an item measures on the solution with a changed body in the place of its function's.

    Raises:
        ValueError: what is to be changed is not there.
    """
    if old not in body:
        raise ValueError(f"{item.name}: {old!r} is not in the right solution")
    before = (folder / item.file).read_text()
    try:
        (folder / item.file).write_text(replace_body(before, item.function, body.replace(old, new), item.file))
        return measured(item, folder)
    finally:
        (folder / item.file).write_text(before)


def measured(item: Item, folder: Path) -> Arrays:
    """Return an item's values, which no other finding may accompany."""
    found = check.measure(item, folder)
    if found.status != "ok" or found.findings:
        raise ValueError(f"{item.name}: {found.status} {found.words} {found.place} {found.findings}")
    return found.arrays


if __name__ == "__main__":
    main()
