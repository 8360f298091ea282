"""The homework edition: its starter of blanked notebooks, and a submission's notebooks."""

import json
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from checker.editions import HOMEWORK_CELLS

NETWORK, STYLE = HOMEWORK_CELLS

MODULES = ("notebooks/cs231n/*.py", "notebooks/cs7643/*.py")
YOURS = re.compile(
    r"^( *)(# Yours: (Question [\d.]+)[^\n]*\n).*?^ *# End$", re.DOTALL | re.MULTILINE
)
BEYOND = "# Beyond the homework"  # what follows is no part of it


def homework_files(root: Path) -> dict[str, bytes]:
    """Return what the homework's starter has beside the assignment's: path → content."""
    files = {name: blank((root / name).read_bytes()) for name in (NETWORK, STYLE)}
    files |= thin_modules(root)
    return files | {"README.md": (root / "course/HOMEWORK.md").read_bytes()}


def thin_modules(root: Path) -> dict[str, bytes]:
    """Return the modules that the notebooks import: path → content."""
    paths = sorted(path for pattern in MODULES for path in root.glob(pattern))
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def blank(notebook: bytes) -> bytes:
    """Return a notebook as students get it: answers cut out, nothing run."""
    content = json.loads(notebook)
    cells = []
    for cell in content["cells"]:
        source = "".join(cell["source"])
        if source.startswith(BEYOND):
            break
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
            source = YOURS.sub(_raising, source)
        cells.append(cell | {"source": source.splitlines(keepends=True)})
    return json.dumps(content | {"cells": cells}, indent=1, ensure_ascii=False).encode() + b"\n"


def _raising(match: re.Match) -> str:
    indent, heading, question = match.groups()
    function = re.findall(r"^def (\w+)", match.string[: match.start()], re.MULTILINE)[-1]
    blank = f'raise NotImplementedError("{question}: {function}")'
    return f"{indent}{heading}{indent}{blank}\n{indent}# End"


def submitted(names: Iterable[str]) -> dict[str, str]:
    """Return a submission's two notebooks, by their names: where they belong → path."""
    notebooks: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (name.count("/"), name)):
        path = PurePosixPath(name)
        if path.suffix == ".ipynb" and not any(part.startswith((".", "__")) for part in path.parts):
            for word, place in (("visuali", NETWORK), ("style", STYLE)):
                if word in path.name.lower():
                    notebooks.setdefault(place, name)
    return notebooks
