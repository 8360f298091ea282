"""A solution's functions, wherever its edition has them: modules, root scripts, notebooks' cells.

Of scripts and notebooks only imports, functions, classes and constants are run, cell by cell:
neither training nor pictures.
"""

import ast
import contextlib
import functools
import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import scipy.ndimage
import torch
import torchvision
from torch import nn

import image_utils
from checker.editions import TABLE, Edition, Function, files
from checker.items import place

# What the packages export, and from which module.
EXPORTS = {
    "visualizers": {
        "SaliencyMap": "saliency_map",
        "GradCam": "gradcam",
        "FoolingImage": "fooling_image",
        "ClassVisualization": "class_visualization",
    },
    "style_modules": {
        "ContentLoss": "content_loss",
        "StyleLoss": "style_loss",
        "TotalVariationLoss": "tv_loss",
    },
}


class Missing(NotImplementedError):
    """What a student has not written yet, in words."""

    def __init__(self, message: str, file: str = ""):
        """Take the message, and the file that is not there."""
        super().__init__(message)
        self.file = file


class Solution:
    """A folder's solution, of an edition."""

    def __init__(self, root: Path, edition: Edition):
        """Keep them."""
        self.root, self.edition = root, edition
        self.once = False  # leave out further calls, which show what the first one has left
        self.findings: list[str] = []  # what is wrong beside the values
        self.remarks: list[str] = []  # what is not, but worth a word

    def place(self, item: str) -> Function:
        """Return where an item's function is."""
        return place(self.edition, item)

    def path(self, item: str) -> Path | None:
        """Return the file that an item's function is in, if it is there."""
        return next(files(self.root, self.place(item).file), None)

    def owner(self, item: str) -> Any:
        """Return the module, or a new instance of the class, that an item's function is in.

        Raises:
            Missing: there is none.
        """
        where, path = self.place(item), self.path(item)
        if path is None:
            raise Missing("there is no such file", where.file)
        module = self._module(path)
        names = [name.rpartition(".")[0] for name in where.name.split("|")]
        return getattr(module, names[0])() if names[0] else module

    def function(self, item: str, owner: Any = None) -> Callable[..., Any]:
        """Return an item's function, which is called with the measures' names for its arguments.

        Raises:
            Missing: there is none.
        """
        where, owner = self.place(item), owner or self.owner(item)
        names = [name.rpartition(".")[2] for name in where.name.split("|")]
        function = next((getattr(owner, name) for name in names if hasattr(owner, name)), None)
        if function is None:
            raise Missing(f"{where.file} does not define {names[0]}")

        @functools.wraps(function)
        def call(**given: Any) -> Any:
            takes = [name for name in where.takes.split() if name.rstrip("=") in given]
            ordered = [given.pop(name) for name in takes if not name.endswith("=")]
            named = {name[:-1]: given.pop(name[:-1]) for name in takes if name.endswith("=")}
            # What is left are options that not every edition has.
            return function(*ordered, **named, **given)

        return call

    def accepts(self, item: str, option: str) -> bool:
        """Return whether an item's function has an argument of this name."""
        return option in inspect.signature(self.function(item)).parameters

    def _module(self, path: Path) -> Any:
        relative = path.relative_to(self.root)
        if path.suffix == ".ipynb" or self.edition is TABLE["a3-2023"]:
            return cells(path)
        name = ".".join(relative.with_suffix("").parts)
        known = sys.modules.get(name)
        return known if getattr(known, "__file__", "") == str(path) else own_module(path, name)


# --- Modules ---


def imported(name: str) -> Any:
    """Import a module of the solution alone: a fault in its package is not this item's."""
    package = name.partition(".")[0]
    if package in EXPORTS and package not in sys.modules:
        module: Any = ModuleType(package)
        module.__path__ = [str(Path(sys.path[0]) / package)]
        module.__getattr__ = lambda exported: _exported(package, exported)
        sys.modules[package] = module
    return importlib.import_module(name)


def _exported(package: str, name: str) -> Any:
    """Return what a package exports, when asked for, as in `from visualizers import GradCam`."""
    if name not in EXPORTS[package]:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return getattr(imported(f"{package}.{EXPORTS[package][name]}"), name)


def stand_in(package: str, kind: type) -> int:
    """Put a class in the place of those that cannot be imported: a fault that is another item's.

    Returns the number of files at fault.
    """
    count = 0
    for name in {f"{package}.{module}" for module in EXPORTS[package].values()}:
        try:
            imported(name)
        except Exception:
            broken: Any = ModuleType(name)
            broken.__getattr__ = lambda _: kind
            sys.modules[name], count = broken, count + 1
    return count


def own_module(path: Path, name: str) -> ModuleType:
    """Run a student's file as the module of a name, statement by statement.

    An import that fails matters only to what uses it: of helpers of another task, or of something
    that an editor has written there.
    """
    tree = ast.parse(path.read_bytes(), str(path))
    if "." in name:
        imported(name.rpartition(".")[0])
    for package in EXPORTS:  # of a package that it imports from, other files do not matter either
        if (Path(sys.path[0]) / package).is_dir():
            imported(package)
    module = ModuleType(name)
    module.__file__, module.__package__ = str(path), name.rpartition(".")[0]
    sys.modules[name] = module
    for node in tree.body:
        _run(node, str(path), module)
    return module


def _run(node: ast.stmt, file: str, module: ModuleType) -> None:
    """Run a statement; names that could not be imported are kept for `lost_import`."""
    try:
        exec(compile(ast.Module([node], []), file, "exec"), vars(module))
    except Exception as error:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            raise
        package, _, name = (getattr(node, "module", "") or "").partition(".")
        ours = package in EXPORTS and name not in EXPORTS[package].values()
        if ours and stand_in(package, nn.Module):  # a file of ours that needs a broken one
            return _run(node, file, module)
        FAILED_IMPORTS.append(f"{type(error).__name__}: {error}")
        for alias in node.names:  # of a helper, which hands them on
            names = COMMON if alias.name == "*" else COMMON.keys() & {alias.name}
            vars(module).update({alias.asname or name: COMMON[name] for name in names})


FAILED_IMPORTS: list[str] = []  # the imports that failed
# What older NumPy, SciPy and Python have, and the hand-outs' helpers import; a GPU's types where
# there is none.
for _name, _now in (("product", np.prod), ("float", float), ("int", int)):
    if _name not in vars(np):
        setattr(np, _name, _now)
_FUTURE = SimpleNamespace(install_aliases=lambda: None)
TYPES = ("torch.FloatTensor", "torch.cuda.FloatTensor")  # which notebooks call dtype
OLD: dict[str, Any] = {
    "scipy.ndimage.filters": scipy.ndimage,
    "scipy.misc": SimpleNamespace(imread=None, imresize=None, imsave=None),
    "imp": importlib,
    "future": SimpleNamespace(standard_library=_FUTURE),
    "imageio": SimpleNamespace(imread=None),
}
for _name, _module in OLD.items():
    if _name.startswith("scipy") or importlib.util.find_spec(_name) is None:
        sys.modules[_name] = _module
if not torch.cuda.is_available():
    vars(torch.cuda)["FloatTensor"] = torch.FloatTensor
COMMON = {"torch": torch, "nn": nn, "F": nn.functional, "np": np, "T": torchvision.transforms}
_PICTURES = (
    "SQUEEZENET_MEAN",
    "SQUEEZENET_STD",
    "blur_image",
    "deprocess",
    "preprocess",
    "rescale",
)
PICTURES = {name: getattr(image_utils, name) for name in _PICTURES}
COMMON |= PICTURES


@functools.cache
def cells(path: Path) -> ModuleType:
    """Return a module with what a notebook or a script defines.

    A function of a cell that does not compile raises the SyntaxError when it is called; one that is
    in no cell raises NotImplementedError, as a blank does.
    """
    module: ModuleType = _Cells(path.name)
    module.__file__ = str(path)
    # What is set where a script or a notebook is run, by more than constants.
    vars(module).update(PICTURES, device=torch.device("cpu"), dtype=torch.FloatTensor)
    sys.path.append(str(path.parent))  # for cs231n beside it
    for where, source in _code(path):
        try:
            tree = ast.parse(source, where)
        except SyntaxError as error:
            for name in re.findall(r"^(?:def|class) +(\w+)", source, re.MULTILINE):
                setattr(module, name, _failing(error))
            continue
        for node in filter(_is_definition, tree.body):
            _run(node, where, module)
    return module


class _Cells(ModuleType):
    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        raise Missing(f"{self.__name__} defines no {name}")


def _code(path: Path) -> Iterator[tuple[str, str]]:
    """Yield place and source of a notebook's cells of code, or of a script.

    Lines for IPython or the shell are empty in them.
    """
    if path.suffix != ".ipynb":
        yield str(path), path.read_text("utf-8")
        return
    for number, cell in enumerate(json.loads(path.read_text("utf-8"))["cells"], start=1):
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and not source.startswith("%%"):
            yield f"{path} cell {number}", re.sub(r"^[ \t]*[%!].*$", "", source, flags=re.MULTILINE)


def _is_definition(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
        if ast.unparse(node.value) in TYPES:
            return True
        with contextlib.suppress(ValueError):
            ast.literal_eval(node.value)
            return True
    return isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef)


def _failing(error: SyntaxError) -> Callable[..., None]:
    def fail(*_, **__):
        raise error

    return fail
