"""Update the Markdown tables made from `checker/items.py`, in STARTER.md and README.md.

python course/tables.py
"""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from checker.editions import TABLE
from checker.items import ASSIGNMENT, HOMEWORK, ITEMS, Item, of_edition
from files.atomic import atomic_write

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Write the files anew."""
    for name in TABLES:
        with atomic_write(HERE / name) as temporary:
            temporary.write_text(updated(name), encoding="utf-8")


def updated(name: str) -> str:
    """Return a file's text with its tables as they should be."""
    text = (HERE / name).read_text("utf-8")
    for mark, rows in TABLES[name].items():
        start, end = f"<!-- {mark} -->\n", f"<!-- end of {mark} -->"
        pattern = re.compile(f"{re.escape(start)}.*{re.escape(end)}", re.DOTALL)
        table = "".join(f"| {' | '.join(row)} |\n" for row in rows())
        text, count = pattern.subn(lambda _, new=f"{start}\n{table}\n{end}": new, text)
        if count != 1:
            raise ValueError(
                f"{name}: one table between {start!r} and {end!r} was expected, found {count}"
            )
    return text


def _what_to_write() -> Iterator[tuple[str, ...]]:
    yield "question", "write", "in", "see it with"
    yield "---", "---", "---", "---"
    for item in ITEMS:
        if item.hint:
            yield item.question, f"`{item.function}`", f"`{item.file}`", f"`python {_script(item)}`"
        else:
            yield (
                item.question,
                f"nothing new: {item.title.lower()}",
                "",
                f"`python {_script(item)} --only {item.name}`",
            )


def _script(item: Item) -> str:
    return Path(item.file).name if item.question.startswith("1") else "style_transfer.py"


def _points() -> Iterator[tuple[str, ...]]:
    yield "item", "assignment", "points", "homework", "points", "extra credit"
    yield "---", "---", "---", "---", "---", "---"
    for item in ITEMS:
        numbers = [item.editions.get(edition, ("", 0)) for edition in (ASSIGNMENT, HOMEWORK)]
        yield (
            item.title,
            *(
                text
                for question, most in numbers
                for text in (question, f"{most:g}" if question else "")
            ),
            f"for {item.extra}" if item.extra else "",
        )
    sums = [
        sum(item.editions.get(edition, ("", 0))[1] for item in ITEMS)
        for edition in (ASSIGNMENT, HOMEWORK)
    ]
    yield "all", "", f"{sums[0]:g}", "", f"{sums[1]:g}", ""


def _editions() -> Iterator[tuple[str, ...]]:
    yield "edition", "what it is", "recognised by", "items", "points"
    yield "---", "---", "---", "---", "---"
    for name, edition in TABLE.items():
        marks = ", ".join(f"`{mark.replace('|', ' ')}`" for mark in edition.marks)
        points = sum(item.editions[name][1] for item in of_edition(name))
        yield f"`{name}`", edition.title, marks, str(len(edition.asks)), f"{points:g}"


TABLES: dict[str, dict[str, Callable[[], Iterator[tuple[str, ...]]]]] = {
    "STARTER.md": {"what to write": _what_to_write},
    "README.md": {"points": _points, "editions": _editions},
}

if __name__ == "__main__":
    main()
