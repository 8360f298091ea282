"""Make the students' edition out of the solution: assignment_3_starter.zip.

    python course/make_starter.py

The bodies of the functions in `BLANKS` become `raise NotImplementedError("Question …")` with a hint, and helpers that
nothing else uses are dropped, so the starter cannot drift away from the solution.
"""

import ast
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from collect_submission import CODE, write_whole, zip_files

ROOT = Path(__file__).resolve().parent.parent
STARTER = "assignment_3_starter.zip"
# What goes with the code, as it is.
EXTRAS = (
    "LICENSE",
    "environment.yaml",
    "requirements.txt",
    "pyproject.toml",
    "collect_submission.sh",
    "collect_submission.bat",
    "checker/*.py",
    "data/get_imagenet_val.sh",
    "data/reference_values.npz",
    "data/expected.npz",
    "data/styles/*.jpg",
)
# Helpers that only blanked functions use, but that students are given.
GIVEN = frozenset({"compute_attributions", "attribution", "occlusion_windows"})


@dataclass(frozen=True)
class Blank:
    """Functions of one file that the student writes."""

    question: str
    file: str
    functions: tuple[str, ...]  # functions, or Class.method
    hint: str


BLANKS = (
    Blank(
        "1.1",
        "visualizers/saliency_map.py",
        ("SaliencyMap.compute_saliency_maps",),
        "Put the network into eval mode. Sum the scores of the labelled classes: no score depends on another image, so "
        "one gradient serves them all. Then of the three colours the largest absolute value.",
    ),
    Blank(
        "1.1",
        "saliency_map.py",
        ("draw_captum",),
        "saliency_captum.png: the row of the photos and a row of Captum's Saliency, the largest channel. "
        "attributions_captum.png: the photos, Saliency, IntegratedGradients and Occlusion (occlusion_windows), the "
        "latter two summed over the channels. page.compute(attribution(attr.Saliency, model)) lists the photos' "
        "attributions, attribution_row makes a row of them, save(name, rows, heading) writes the figure.",
    ),
    Blank(
        "1.2",
        "visualizers/gradcam.py",
        ("CustomReLU.backward",),
        "What forward saved tells where the input was positive. Both conditions count.",
    ),
    Blank(
        "1.2",
        "visualizers/gradcam.py",
        ("GradCam.guided_backprop",),
        "CustomReLU has to stand in for every ReLU, also those inside the Fire modules, and the network is to be given "
        "back as it was: work on a copy (copy.deepcopy), or undo the change in a finally clause.",
    ),
    Blank(
        "1.2",
        "visualizers/gradcam.py",
        ("GradCam.grad_cam",),
        "Forward hooks show a layer's output; remove them afterwards. Without layer, take default_layer(gc_model). "
        "Keep what is positive, then enlarge to (H, W), which PIL counts as (W, H), then bring all to [0, 1] together.",
    ),
    Blank(
        "1.2",
        "visualizers/gradcam.py",
        ("GradCam.guided_grad_cam",),
        "Gradients of a first backward pass that stay in X_tensor.grad would be added to those of a second one.",
    ),
    Blank(
        "1.2",
        "gradcam.py",
        ("draw_captum",),
        "Five figures, NAME_captum.png, each the row of the photos and one attribution_row: guided_backprop "
        "(GuidedBackprop), guided_gradcam (GuidedGradCam at the first layer, bicubic), and at the second layer: "
        "layer_activation (LayerActivation, mean over the channels), layer_gradcam (LayerGradCam, relu_attributions) "
        "and layer_conductance (LayerConductance, n_steps, mean over the channels). "
        "page.compute(attribution(attr.LayerActivation, model, layer)) lists the photos' attributions; save with "
        "save(name, rows, heading).",
    ),
    Blank(
        "1.3",
        "visualizers/fooling_image.py",
        ("FoolingImage.make_fooling_image",),
        "Work on a copy of X. Look at the scores before each step and stop as soon as the target's is the highest.",
    ),
    Blank(
        "1.4",
        "visualizers/class_visualization.py",
        ("objective_gradient",),
        "The gradient has two parts: the score's, by autograd, and that of the penalty, which you can write down.",
    ),
    Blank(
        "2.1", "style_modules/content_loss.py", ("ContentLoss.forward",), "One line; the weight is a factor of the sum."
    ),
    Blank(
        "2.2",
        "style_modules/style_loss.py",
        ("StyleLoss.gram_matrix",),
        "Make a matrix (C, H·W) of each image's features; the batch dimension stays.",
    ),
    Blank(
        "2.3",
        "style_modules/style_loss.py",
        ("StyleLoss.forward",),
        "style_layers says where in feats a layer is; style_targets and style_weights are counted along with it. Over "
        "no layers the loss is a tensor too.",
    ),
    Blank(
        "2.4",
        "style_modules/tv_loss.py",
        ("TotalVariationLoss.forward",),
        "No loops: differences of two shifted slices, once along the height and once along the width.",
    ),
    Blank(
        "2.5",
        "style_modules/rules.py",
        ("CourseRule.step",),
        "The gradient of the sum of the three terms by self.pixels, anew for each step; then a step of self.adam. When "
        "20 steps are left, begin with a new Adam and the smaller learning rate.",
    ),
)


class StarterError(Exception):
    """Why there is no starter, on one line."""


def main() -> int:
    """Write the zip beside the solution. Returns the exit status."""
    try:
        files = starter_files(ROOT)
        write_whole(ROOT / STARTER, zip_files(files))
    except (StarterError, OSError) as error:
        print(f"make_starter.py: error: {error}", file=sys.stderr)
        return 2
    print(f"{STARTER}: {len(files)} files")
    return 0


def course_files(root: Path) -> dict[str, bytes]:
    """Return the solution's files that have a counterpart in the starter: path → content, in a fixed order."""
    paths = sorted(path for pattern in (*CODE, *EXTRAS) for path in root.glob(pattern) if path.name[0] != ".")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def starter_files(root: Path) -> dict[str, bytes]:
    """Return the starter's files: path in the zip → content.

    Raises:
        StarterError: a function of `BLANKS` is not there, or ruff finds fault with what is left.
    """
    files = course_files(root)
    sources = {name: content.decode() for name, content in files.items() if name.endswith(".py")}
    removed = []
    for blank in BLANKS:
        for function in blank.functions:
            removed.append(function_body(sources.get(blank.file, ""), function, blank.file))
            sources[blank.file] = replace_body(sources[blank.file], function, _blank_body(blank, function), blank.file)
    sources = _without_helpers(sources, removed)
    sources = _tidied(sources, (root / "pyproject.toml").read_text())
    files |= {name: source.encode() for name, source in sources.items()}
    files["README.md"] = (root / "course/STARTER.md").read_bytes()
    return dict(sorted(files.items()))


def _blank_body(blank: Blank, function: str) -> str:
    hint = textwrap.wrap(f"Hint: {blank.hint}", 100, initial_indent="# ", subsequent_indent="# ")
    return "\n".join([*hint, f'raise NotImplementedError("Question {blank.question}: {function} in {blank.file}")'])


# --- Source text ---


def find_definition(source: str, name: str, file: str = "") -> ast.FunctionDef | ast.ClassDef:
    """Return the definition of a function, class or Class.method.

    Raises:
        StarterError: there is none.
    """
    node = ast.parse(source)
    for part in name.split("."):
        node = next((n for n in node.body if _is_definition(n) and n.name == part), None)
        if node is None:
            raise StarterError(f"{file}: no function {name}; the table in make_starter.py names one that is gone")
    return node


def _is_definition(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.ClassDef)


def _body_lines(source: str, name: str, file: str) -> tuple[int, int, str]:
    """Return the first line of a function's body below the docstring, the line after it (from 0), and its indent."""
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
        used, found = [], []
        for file, source in sources.items():
            tree = ast.parse(source)
            used += _used_names(tree)
            found += [(file, node) for node in _helpers(tree) if node.name in candidates]
        # What a helper says of itself does not count as a use.
        gone = [(file, n) for file, n in found if used.count(n.name) == list(_used_names(n)).count(n.name)]
        removed = [node for _, node in gone]
        for file, node in sorted(gone, key=lambda pair: -pair[1].lineno):  # from the end, so that line numbers hold
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
            yield from (n for n in node.body if _is_definition(n) and n.name[0] == "_" and n.name[:2] != "__")


def _without(source: str, node: ast.AST) -> str:
    """Return the source without a definition, its decorators and the comment right above it."""
    lines = source.splitlines()
    start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
    while start and lines[start - 1].lstrip().startswith("#"):
        start -= 1
    return "\n".join([*lines[:start], *lines[node.end_lineno :], ""])


def _tidied(sources: dict[str, str], settings: str) -> dict[str, str]:
    """Remove imports that are no longer used and format, with ruff; check that nothing else is wrong.

    Raises:
        StarterError: it is.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pyproject.toml").write_text(settings)
        for file, source in sources.items():
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_text(source)
        for command in (["check", "--fix", "--select", "F401,I001"], ["format"], ["check"]):
            command = [sys.executable, "-m", "ruff", *command, "--quiet", "--no-cache", "."]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            if done.returncode:
                raise StarterError(f"ruff: {' '.join((done.stdout + done.stderr).split())[:500]}")
        return {file: (folder / file).read_text() for file in sources}


if __name__ == "__main__":
    sys.exit(main())
