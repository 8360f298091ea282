"""The homework's notebooks: the functions of their cells, put where the check looks for the
package's.

Of a notebook only imports, functions, classes and constants are run, cell by cell: neither training
nor pictures.
"""

import ast
import contextlib
import functools
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

NETWORK, STYLE = (
    "notebooks/NetworkVisualization-Pytorch.ipynb",
    "notebooks/StyleTransfer-Pytorch.ipynb",
)
COPIED = (
    "*.py",
    "[!.]*/*.py",
    "data/*.npz",
    "data/styles/*.jpg",
    "notebooks/*.ipynb",
    "notebooks/*/*.py",
)

_HEADER = """from pathlib import Path

from torch import nn

from checker.notebooks import cells

ROOT = Path(__file__).resolve().parent.parent
"""
# The package's files, which call what the notebooks define.
ADAPTERS = {
    "visualizers/saliency_map.py": f"""{_HEADER}
class SaliencyMap:
    def compute_saliency_maps(self, X, y, model):
        return cells(ROOT / {NETWORK!r}).compute_saliency_maps(X, y, model)
""",
    "visualizers/fooling_image.py": f"""{_HEADER}
class FoolingImage:
    def make_fooling_image(self, X, target_y, model, **kwargs):
        return cells(ROOT / {NETWORK!r}).make_fool_image(X, target_y, model, **kwargs)
""",
    "visualizers/class_visualization.py": f"""{_HEADER}
class ClassVisualization:
    def create_class_visualization(self, target_y, class_names, model, dtype, generate_plots=True, **kwargs):
        return cells(ROOT / {NETWORK!r}).create_class_visualization(target_y, model, dtype, **kwargs)
""",
    "style_modules/content_loss.py": f"""{_HEADER}
class ContentLoss(nn.Module):
    def forward(self, content_weight, content_current, content_original):
        return cells(ROOT / {STYLE!r}).content_loss(content_weight, content_current, content_original)
""",
    "style_modules/style_loss.py": f"""{_HEADER}
class StyleLoss(nn.Module):
    def gram_matrix(self, features, normalize=True):
        return cells(ROOT / {STYLE!r}).gram_matrix(features, normalize)

    def forward(self, feats, style_layers, style_targets, style_weights):
        notebook = cells(ROOT / {STYLE!r})
        notebook.gram_matrix = self.gram_matrix if "gram_matrix" in vars(self) else notebook.gram_matrix
        return notebook.style_loss(feats, style_layers, style_targets, style_weights)
""",
    "style_modules/tv_loss.py": f"""{_HEADER}
class TotalVariationLoss(nn.Module):
    def forward(self, img, tv_weight):
        return cells(ROOT / {STYLE!r}).tv_loss(img, tv_weight)
""",
}
# Below the rest of style_utils.py: the losses and the network that are given are the notebook's
# globals.
STYLE_TRANSFER = f"""

def style_transfer(
    name, content_image, style_image, image_size, style_size, content_layer, content_weight, style_layers,
    style_weights, tv_weight, content_loss, style_loss, tv_loss, cnn, dtype, init_random=False, testing=False
):
    from checker.notebooks import cells

    notebook = cells(Path(__file__).resolve().parent / {STYLE!r})
    notebook.content_loss, notebook.style_loss, notebook.tv_loss = content_loss, style_loss, tv_loss
    notebook.gram_matrix, notebook.cnn, notebook.dtype = style_loss.gram_matrix, cnn, dtype
    return notebook.style_transfer(
        content_image, style_image, image_size, style_size, content_layer, content_weight, style_layers,
        style_weights, tv_weight, init_random
    )
"""


def write_package(root: Path, folder: Path) -> None:
    """Copy a homework's code, data and notebooks, and put the notebooks' functions in the places of
    the package's.
    """
    for path in (path for pattern in COPIED for path in root.glob(pattern)):
        target = folder / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    for name, source in ADAPTERS.items():
        (folder / name).write_text(source, encoding="utf-8")
    with (folder / "style_utils.py").open("a", encoding="utf-8") as file:
        file.write(STYLE_TRANSFER)


@functools.cache
def cells(path: Path) -> ModuleType:
    """Return a module with what a notebook defines.

    A function of a cell that does not compile raises the SyntaxError when it is called; one that is
    in no cell raises NotImplementedError, as a blank does.
    """
    module: ModuleType = _Cells(path.stem)
    module.__file__ = str(path)
    sys.path.append(str(path.parent))  # for cs231n beside it
    for place, source in _code(path):
        try:
            tree = ast.parse(source, f"{path} {place}")
        except SyntaxError as error:
            for name in re.findall(r"^(?:def|class) +(\w+)", source, re.MULTILINE):
                setattr(module, name, _failing(error))
            continue
        for node in filter(_is_definition, tree.body):
            # Of what only draws; whoever needs it says what is not defined
            with contextlib.suppress(ImportError):
                exec(compile(ast.Module([node], []), f"{path} {place}", "exec"), vars(module))
    return module


class _Cells(ModuleType):
    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        raise NotImplementedError(
            f"Question not answered: no cell of {self.__name__}.ipynb defines {name}"
        )


def _code(path: Path) -> Iterator[tuple[str, str]]:
    """Yield place and source of a notebook's cells of code; lines for IPython or the shell are
    empty in them.
    """
    if not path.is_file():
        return
    for number, cell in enumerate(json.loads(path.read_text("utf-8"))["cells"], start=1):
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and not source.startswith("%%"):
            yield f"cell {number}", re.sub(r"^[ \t]*[%!].*$", "", source, flags=re.MULTILINE)


def _is_definition(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
        with contextlib.suppress(ValueError):
            ast.literal_eval(node.value)
            return True
    return isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef)


def _failing(error: SyntaxError) -> Callable[..., None]:
    def fail(*_, **__):
        raise error

    return fail
