"""Make the students' edition, assignment_3_starter.zip, or Gradescope's autograder.zip.

    python course/make_starter.py
    python course/make_starter.py --edition homework
    python course/make_starter.py --autograder

The functions that `checker/items.py` names become `raise NotImplementedError("Question …")` with a
hint, and helpers that nothing else uses are dropped, so the starter cannot drift away from the
solution.
"""

import ast
import dataclasses
import os
import re
import secrets
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from checker.items import ASSIGNMENT, HOMEWORK, ITEMS, Item
from cli.options import Parser
from cli.process import command, print_line
from collect_submission import code_of, zip_files
from course.notebooks import homework_files
from errors import InputError
from files.atomic import atomic_write

ROOT = Path(__file__).resolve().parent.parent
STARTER, HOMEWORK_STARTER = "assignment_3_starter.zip", "homework_starter.zip"
AUTOGRADER = "autograder.zip"
# What goes with the code, as it is.
EXTRAS = (
    "LICENSE",
    "environment.yaml",
    "requirements.txt",
    "pyproject.toml",
    "collect_submission.sh",
    "collect_submission.bat",
    "data/get_imagenet_val.sh",
    "data/reference_values.npz",
    "data/expected.npz",
    "data/styles/*.jpg",
)
# Helpers that only blanked functions use, but that students are given.
GIVEN = frozenset({"compute_attributions", "attribution", "occlusion_windows"})


# Not asked for, but half an answer: what counterfactual maps take from Grad-CAM.
_SHARED = dataclasses.replace(
    next(item for item in ITEMS if item.name == "grad_cam"),
    function="GradCam.maps",
    hint="Only counterfactual maps need it: activation_value and gradient_value to maps in [0, 1].",
)
BLANKS = (*(item for item in ITEMS if item.hint), _SHARED)

# Part of a function that students write: indent, title, what is there.
PART = re.compile(r"^( *)(# Question [^\n]*\n)(.*?)^ *# End\n", re.DOTALL | re.MULTILINE)


LARGEST_SEED = 10**9  # of hidden inputs


class StarterError(InputError):
    """Why there is no starter, on one line."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the zip beside the solution. Returns the exit status."""
    parser = Parser(description="Make the students' edition out of the solution.")
    parser.add_argument(
        "--edition",
        choices=(ASSIGNMENT, HOMEWORK),
        default=ASSIGNMENT,
        help="which (default: %(default)s)",
    )
    text = f"make {AUTOGRADER}, which holds no solution, but hidden inputs and their values"
    parser.add_argument("--autograder", action="store_true", help=text)
    text = "of --autograder, draws the inputs (default: another one each time)"
    parser.add_argument("--seed", type=int, metavar="N", help=text)
    options = parser.parse_args(argv)
    homework = options.edition == HOMEWORK
    archive = HOMEWORK_STARTER if homework else STARTER
    with command(parser):
        files = starter_files(ROOT) | (homework_files(ROOT) if homework else {})
        if options.autograder:
            archive = AUTOGRADER
            seed = options.seed or 1 + secrets.randbelow(LARGEST_SEED)
            values = hidden_values(seed, options.edition)
            files = autograder_files(ROOT, files, options.edition, values)
        with atomic_write(ROOT / archive) as temporary:
            temporary.write_bytes(zip_files(files))
        print_line(f"{archive}: {len(files)} files")
    return 0


def hidden_values(seed: int, edition: str = ASSIGNMENT) -> bytes:
    """Return the file that `hidden.py` writes, by a process of its own: it needs torch.

    Raises:
        StarterError: it writes none.
    """
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "hidden.npz"
        command = [sys.executable, ROOT / "course/hidden.py", "--seed", str(seed), "--out", path]
        command += ["--edition", edition]
        kwargs: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True}
        kwargs["env"] = {**os.environ, "TMPDIR": name}  # goes with it when that is killed
        done = subprocess.run(command, text=True, **kwargs)
        if done.returncode:
            message = "".join(done.stderr.strip().splitlines()[-1:])
            raise StarterError(f"no values for the inputs of seed {seed}: {message}")
        return path.read_bytes()


def autograder_files(
    root: Path, starter: dict[str, bytes], edition: str, values: bytes
) -> dict[str, bytes]:
    """Return what Gradescope grades with, without the solution: path in the zip → content."""
    written = {blank.file for blank in BLANKS}
    given = {name: content for name, content in course_files(root).items() if name not in written}
    files = {f"project/{name}": content for name, content in (starter | given).items()}
    for name in ("grade", "make_starter", "notebooks"):
        files[f"project/course/{name}.py"] = (root / f"course/{name}.py").read_bytes()
    files["project/data/hidden.npz"] = values
    for name in ("setup.sh", "run_autograder"):
        source = (root / "course/autograder" / name).read_text("utf-8")
        files[name] = source.replace("EDITION:-assignment", f"EDITION:-{edition}").encode()
    return files


def course_files(root: Path) -> dict[str, bytes]:
    """Return the solution's files that the starter has, too: path → content, sorted."""
    extras = (path for pattern in EXTRAS for path in root.glob(pattern) if path.name[0] != ".")
    paths = sorted({*code_of(root), *extras})
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def starter_files(root: Path) -> dict[str, bytes]:
    """Return the starter's files: path in the zip → content."""
    files = course_files(root)
    sources = {name: content.decode() for name, content in files.items() if name.endswith(".py")}
    removed = []
    for blank in BLANKS:
        body = function_body(sources.get(blank.file, ""), blank.function, blank.file)
        removed += blanked_parts(blank, body)
        sources[blank.file] = replace_body(
            sources[blank.file], blank.function, _blanked(blank, body), blank.file
        )
    sources = _without_helpers(sources, removed)
    sources = _tidied(sources, (root / "pyproject.toml").read_text())
    files |= {name: source.encode() for name, source in sources.items()}
    files["README.md"] = (root / "course/STARTER.md").read_bytes()
    return dict(sorted(files.items()))


def _blank_body(blank: Item) -> str:
    hint = textwrap.wrap(f"Hint: {blank.hint}", 84, initial_indent="# ", subsequent_indent="# ")
    return "\n".join(
        [
            *hint,
            f'raise NotImplementedError("Question {blank.question}: {blank.function} in '
            f'{blank.file}")',
        ]
    )


def blanked_parts(blank: Item, body: str) -> list[str]:
    """Return what of a function's body students do not get: all of it, or the marked parts."""
    parts = [textwrap.dedent(match[3]) for match in PART.finditer(body)] if blank.parts else [body]
    if not parts:
        raise StarterError(
            f"{blank.file}: no part of {blank.function} is marked by `# Question N: …` and `# End`"
        )
    return parts


def _blanked(blank: Item, body: str) -> str:
    """Return a function's body as students get it: of several parts, the first one has the hint."""
    if not blank.parts:
        return _blank_body(blank)
    first = blanked_parts(blank, body)[0]

    def emptied(match: re.Match) -> str:
        indent, title = match[1], match[2]
        if textwrap.dedent(match[3]) != first:
            return f"{indent}{title}{indent}pass\n"
        names = [
            node.targets[0].id for node in ast.parse(first).body if isinstance(node, ast.Assign)
        ]
        return textwrap.indent(
            f"{title}{' = '.join([*names, 'None'])}\n{_blank_body(blank)}\n", indent
        )

    return PART.sub(emptied, body)


# --- Source text ---


def find_definition(source: str, name: str, file: str = "") -> ast.FunctionDef | ast.ClassDef:
    """Return the definition of a function, class or Class.method."""
    node = ast.parse(source)
    for part in name.split("."):
        node = next((n for n in node.body if _is_definition(n) and n.name == part), None)
        if node is None:
            raise StarterError(
                f"{file}: no function {name}; checker/items.py names one that is gone"
            )
    return node


def _is_definition(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.ClassDef)


def _body_lines(source: str, name: str, file: str) -> tuple[int, int, str]:
    """Return where a function's body starts, below the docstring, where it ends, and its indent."""
    node = find_definition(source, name, file)
    if ast.get_docstring(node) is None:
        raise StarterError(f"{file}: {name} has no docstring, which is what the student is given")
    docstring = node.body[0]
    return docstring.end_lineno, node.end_lineno, " " * docstring.col_offset


def function_body(source: str, name: str, file: str = "") -> str:
    """Return the lines of a function below its docstring, without their indent."""
    start, end, _ = _body_lines(source, name, file)
    return textwrap.dedent("\n".join(source.splitlines()[start:end]))


def replace_body(source: str, name: str, body: str, file: str = "") -> str:
    """Return the source with another body below the function's signature and docstring."""
    start, end, indent = _body_lines(source, name, file)
    lines = source.splitlines()
    return "\n".join([*lines[:start], textwrap.indent(body.strip("\n"), indent), *lines[end:], ""])


def _without_helpers(sources: dict[str, str], removed: list[str]) -> dict[str, str]:
    """Drop the functions that only removed code used, and those that only these used, and so on."""
    sources, candidates = dict(sources), set()
    removed = [ast.parse(textwrap.dedent(text)) for text in removed]
    while removed:
        candidates |= {name for tree in removed for name in _used_names(tree)} - GIVEN
        used, helpers = [], []
        for file, source in sources.items():
            tree = ast.parse(source)
            used += _used_names(tree)
            helpers += [(file, node) for node in _helpers(tree) if node.name in candidates]
        # What a helper says of itself does not count as a use.
        gone = [
            (file, n)
            for file, n in helpers
            if used.count(n.name) == list(_used_names(n)).count(n.name)
        ]
        removed = [node for _, node in gone]
        # From the end, so that line numbers hold
        for file, node in sorted(gone, key=lambda pair: -pair[1].lineno):
            sources[file] = _without(sources[file], node)
    return sources


def _used_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value  # __all__


def _helpers(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield functions and classes of a module, and the private methods of its classes."""
    for node in filter(_is_definition, tree.body):
        yield node
        if isinstance(node, ast.ClassDef):
            yield from (
                n
                for n in node.body
                if _is_definition(n) and n.name[0] == "_" and n.name[:2] != "__"
            )


def _without(source: str, node: ast.AST) -> str:
    """Return the source without a definition, its decorators and the comment right above it."""
    lines = source.splitlines()
    start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
    while start and lines[start - 1].lstrip().startswith("#"):
        start -= 1
    return "\n".join([*lines[:start], *lines[node.end_lineno :], ""])


def _tidied(sources: dict[str, str], settings: str) -> dict[str, str]:
    """Remove unused imports and format, with ruff; check that nothing else is wrong."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pyproject.toml").write_text(settings)
        for file, source in sources.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(source)
        for command in (["check", "--fix", "--select", "F401,I001"], ["format"], ["check"]):
            command = [sys.executable, "-m", "ruff", *command, "--quiet", "--no-cache", "."]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            if done.returncode:
                raise StarterError(f"ruff: {' '.join((done.stdout + done.stderr).split())[:500]}")
        return {file: (folder / file).read_text() for file in sources}


if __name__ == "__main__":
    sys.exit(main())
