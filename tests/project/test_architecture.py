"""The house: who imports whom, and what can be taken out of it."""

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import warm
from helpers import ROOT

LAYERS = (
    {"errors"},
    {"files", "style_modules"},
    {"image_utils"},
    {"figure_utils", "data_utils", "adapters"},
    {"visualizers", "model_utils"},
    {"style_utils", "captum_utils"},
    {"cli", "report", "checker"},
    {
        *(
            "saliency_map",
            "gradcam",
            "fooling_image",
            "class_visualization",
            "style_transfer",
            "sanity_checks",
        ),
        *("writeup", "check", "collect_submission"),
    },
)
LAYER = {name: number for number, names in enumerate(LAYERS, start=1) for name in names}
TAKEN_ALONG = {"image_utils", "errors"}  # all that the techniques need
# What imports inside functions: the commands, so that --help answers at once, what runs them, and
# modules that can be copied without what a single function of theirs needs.
DEFERRED = {*LAYERS[-1], "cli/run", "image_utils", "visualizers/common"}

PACKAGES = ("cli", "files", "report", "checker", "adapters", "visualizers", "style_modules")
HOUSE = sorted(
    [*ROOT.glob("*.py"), *(path for name in PACKAGES for path in ROOT.glob(f"{name}/*.py"))]
)
CODE = sorted([*HOUSE, *ROOT.glob("benchmarks/*.py"), *ROOT.glob("data/*.py")])
TECHNIQUES = [path for path in HOUSE if path.parent.name in ("visualizers", "style_modules")]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parts_of(path: Path) -> str:
    """The name by which a file stands in the table: a package's for its modules."""
    return path.stem if path.parent == ROOT else path.parent.name


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"


def imports(node: ast.AST, inside: bool = False) -> Iterator[tuple[str, bool]]:
    """What is imported, as dotted names, and whether inside a function; imports for types alone are
    left out.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, inside) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield "." * child.level + (child.module or ""), inside
        elif not is_for_types(child):
            yield from imports(
                child, inside or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
            )


def own_imports(path: Path) -> list[tuple[str, bool]]:
    """Names in the table that a file imports, its own package left out."""
    found = [
        (name.partition(".")[0], inside) for name, inside in imports(ast.parse(path.read_text()))
    ]
    return [(name, inside) for name, inside in found if name in LAYER]


@pytest.mark.parametrize("path", HOUSE, ids=name_of)
def test_a_module_imports_lower_layers_only(path):
    mine = parts_of(path)
    for name, _ in own_imports(path):
        assert mine == name or LAYER[name] < LAYER[mine], f"{mine} imports {name}"


@pytest.mark.parametrize("path", TECHNIQUES, ids=name_of)
def test_the_techniques_import_nothing_of_ours_but_pictures_and_errors(path):
    assert {name for name, inside in own_imports(path) if not inside} <= TAKEN_ALONG


def test_pictures_import_nothing_of_ours_but_errors():
    assert {name for name, inside in own_imports(ROOT / "image_utils.py") if not inside} == {
        "errors"
    }


def test_every_module_has_a_test_of_its_path():
    staff = list(ROOT.glob("course/*.py"))
    without = []
    for path in [*HOUSE, *staff]:
        inside = path.parent.relative_to(ROOT)
        places = [inside / f"test_{path.name}", Path("scripts") / f"test_{path.name}"]
        if path.name != "__init__.py" and not any((ROOT / "tests" / p).is_file() for p in places):
            without.append(path.relative_to(ROOT).as_posix())
    assert without == []


@pytest.mark.parametrize("path", HOUSE, ids=name_of)
def test_imports_stand_at_the_top(path):
    if name_of(path).removesuffix(".py") not in DEFERRED:
        assert not [name for name, inside in imports(ast.parse(path.read_text())) if inside]


@pytest.mark.parametrize(
    "path",
    [
        "check.py",
        "collect_submission.py",
        "course/grade.py",
        "course/make_starter.py",
        "course/make_expected.py",
    ],
)
def test_commands_print_by_print_line(path):
    """Which lets a reader go, and names a full disk; `print` is for standard error alone."""
    calls = [
        node
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.Call)
    ]
    plain = [call for call in calls if getattr(call.func, "id", "") == "print"]
    files = {
        ast.unparse(keyword.value)
        for call in plain
        for keyword in call.keywords
        if keyword.arg == "file"
    }
    said = [call for call in plain if not any(k.arg in ("file", "end") for k in call.keywords)]
    assert said == [] and files <= {"sys.stderr"}
    assert any(getattr(call.func, "id", "") == "print_line" for call in calls)


@pytest.mark.slow
def test_the_techniques_work_alone_in_an_empty_folder(tmp_path):
    for folder in ("visualizers", "style_modules"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in TAKEN_ALONG:
        shutil.copy(ROOT / f"{name}.py", tmp_path)
    program = """
import sys, torch, torchvision
import style_modules, style_modules.rules, visualizers
from errors import InputError
from pathlib import Path
torch.manual_seed(0)
X, y = torch.randn(2, 3, 64, 64), torch.tensor([1, 2])
model = torchvision.models.squeezenet1_1().eval()
maps = visualizers.SaliencyMap().compute_saliency_maps(X, y, model)
assert maps.shape == (2, 64, 64) and maps.max() > 0
cam, grown = visualizers.GradCam(), visualizers.ClassVisualization()
assert cam.guided_backprop(X, y, model).shape == cam.guided_grad_cam(X, y, model).shape == (2, 64, 64, 3)
assert cam.grad_cam(X, y, model, layer="features.4").shape == (2, 64, 64)
fooling = visualizers.FoolingImage().make_fooling_image(X[:1], 3, model, max_iter=1)
assert isinstance(visualizers.FoolingImage().is_fooled(fooling, 3, model), bool)
settings = dict(class_names={}, model=model, dtype=torch.float32, num_iterations=1)
assert grown.create_class_visualization(3, generate_plots=False, **settings).size == (224, 224)
assert grown.visualize_classes([1, 2], model, num_iterations=1).shape == (2, 3, 224, 224)
assert grown.blur_image(grown.jitter(X.clone(), 1, 2)).shape == X.shape
photos = (255 * torch.rand(2, 64, 64, 3)).byte().numpy()
for draw in (lambda: grown.create_class_visualization(3, **settings),
             lambda: visualizers.SaliencyMap().show_saliency_maps(photos, [1, 2], {}, model)):
    try:
        draw()
    except InputError as error:
        print(error)
ours = {Path(m.__file__).name for m in sys.modules.values() if getattr(m, "__file__", None)
        and Path(m.__file__).parent == Path.cwd()}
print(sorted(ours))
"""
    result = warm.run("-c", program, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    *refused, ours = result.stdout.splitlines()
    assert len(refused) == 2 and all("figure_utils.py and files/" in line for line in refused)
    assert ours == "['errors.py', 'image_utils.py']"
