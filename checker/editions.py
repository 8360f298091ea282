"""The editions: one table of what each asks for, where that is and how it is called.

A new edition is a new row. The first row of which a folder holds a mark is its edition.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Function:
    """Where a function is that students write, and how it is called."""

    file: str  # path or pattern; `|` between alternatives
    name: str  # function or Class.method; `|` between alternatives
    takes: str  # its arguments in order, by the measures' names; `name=` is given by name
    # Of a step, what is the next picture: "given", it is changed in place; "result"; "copy", the
    # result's numbers, in a picture that asks for no gradient.
    next: str = "result"


@dataclass(frozen=True)
class Photos:
    """The photos that functions are given."""

    name: str
    count: int
    height: int
    width: int
    every: int  # of the pixels each way, which are compared


WIDE = Photos("wide", 2, 96, 128, 6)  # not square, and quick
SQUARE = Photos(
    "square", 5, 224, 224, 14
)  # the course's number and size: some are written for no others


@dataclass(frozen=True)
class Edition:
    """A row of the table."""

    title: str
    marks: tuple[str, ...]  # patterns of files, or `file: what its text holds`
    asks: Mapping[str, str]  # item → number of its question
    photos: Photos = SQUARE
    step: int = 10  # length of a fooling image's steps
    unit_steps: bool = True  # class visualization's steps must have the length of the learning rate
    eval_mode: bool = True  # the hand-out itself puts the network into eval mode
    quiet: bool = False  # whoever prints what nobody asked for loses the item
    # Items whose hand-out asks for the photos' gradients outside the function, and itself leaves
    # the network changed.
    prepared: frozenset[str] = frozenset()
    places: Mapping[str, Function] = field(default_factory=dict)  # where not as in the item's row
    points: Mapping[str, float] = field(default_factory=dict)  # likewise

    def values(self, item: str) -> str:
        """Return the name under which the values are stored that an item should give."""
        kinds = dict.fromkeys(MAPS, self.photos.name) | {
            "fooling_image": f"{self.photos.name}{self.step}",
            "class_visualization": "unit" if self.unit_steps else "any",
        }
        kind = kinds.get(item, "")
        return item if kind in ("", "wide", "wide10", "unit") else f"{item}@{kind}"


MAPS = ("saliency_map", "guided_backprop", "grad_cam", "guided_grad_cam")
TAKES = {  # of the functions in CS7643's files
    **dict.fromkeys(MAPS, "X y model"),
    "fooling_image": "X target_y model",
    "class_visualization": "target_y class_names model dtype",
    "content_loss": "content_weight content_current content_original",
    "gram_matrix": "features normalize",
    "style_loss": "feats style_layers style_targets style_weights",
    "tv_loss": "img tv_weight",
    "guided_gram_matrix": "features masks normalize",
    "guided_style_loss": "feats style_layers style_targets style_weights content_masks",
    "style_transfer": "name content_image style_image image_size style_size content_layer "
    "content_weight style_layers style_weights tv_weight content_loss style_loss tv_loss cnn dtype",
}
_NETWORK = {"saliency_map": "1.1", "fooling_image": "1.2", "class_visualization": "1.3"}
_STYLE = {"content_loss": "2.1", "gram_matrix": "2.2", "style_loss": "2.2", "tv_loss": "2.3"}
_PAINTED = {"style_transfer": "2.4", "feature_inversion": "2.5"}
_GUIDED = {"guided_gram_matrix": "2.4", "guided_style_loss": "2.5"}
_A3 = {
    "saliency_map": "1.1",
    **dict.fromkeys(("custom_relu", "guided_backprop", "grad_cam"), "1.2"),
    **{"fooling_image": "1.3", "class_visualization": "1.4"},
    **_STYLE,
    **_PAINTED,
}


def _functions(file: str, *items: str, **others: str) -> dict[str, Function]:
    """Return where the functions of a file are: of the items' own names, or of others."""
    names = {item: item for item in items} | others
    return {item: Function(file, name, TAKES.get(item, "")) for item, name in names.items()}


def _places(network: str, style: str, fooling: str, step: Function) -> dict[str, Function]:
    """Return where the functions of an edition with one file for each half are."""
    names = {"saliency_map": "compute_saliency_maps", "fooling_image": fooling}
    losses = _functions(style, *_STYLE, *_GUIDED)
    return {**_functions(network, **names), "class_visualization": step, **losses}


_CS231N = _places(
    "cs231n/net_visualization_pytorch.py",
    "cs231n/style_transfer_pytorch.py",
    "make_fooling_image",
    Function(
        "cs231n/net_visualization_pytorch.py",
        "class_visualization_update_step",
        "img model target_y l2_reg learning_rate",
        next="given",
    ),
)
_EECS = _places(
    "network_visualization.py",
    "style_transfer.py",
    "make_adversarial_attack",
    Function(
        "network_visualization.py",
        "class_visualization_step",
        "img target_y model l2_reg= learning_rate=",
    ),
)
_CS182 = _places(
    "deeplearning/network_visualization.py",
    "deeplearning/style_transfer.py",
    "make_fooling_image",
    Function(
        "deeplearning/network_visualization.py",
        "update_class_visulization|update_class_visualization",
        "model target_y l2_reg learning_rate img",
        next="copy",
    ),
)
NETWORK_CELLS = "*etwork*isualization*y*orch*.ipynb|*etwork*isualization.ipynb"
STYLE_CELLS = "*tyle*ransfer*y*orch*.ipynb|*tyle*ransfer.ipynb"
_CELLS = _places(
    NETWORK_CELLS,
    STYLE_CELLS,
    "make_fooling_image|make_fool_image",
    Function(NETWORK_CELLS, "create_class_visualization", "target_y model dtype"),
)
HOMEWORK_CELLS = (
    "notebooks/NetworkVisualization-Pytorch.ipynb",
    "notebooks/StyleTransfer-Pytorch.ipynb",
)
_HOMEWORK = _places(
    HOMEWORK_CELLS[0],
    HOMEWORK_CELLS[1],
    "make_fool_image|make_fooling_image",
    Function(HOMEWORK_CELLS[0], "create_class_visualization", "target_y model dtype"),
) | {
    "style_transfer": Function(
        HOMEWORK_CELLS[1],
        "style_transfer",
        "content_image style_image image_size style_size content_layer content_weight "
        "style_layers style_weights tv_weight init_random",
    )
}
_SCRIPTS = {  # classes in the scripts of the root
    **_functions("saliency_visualization.py", saliency_map="SaliencyMap.compute_saliency_maps"),
    "class_visualization": Function(
        "class_visualization.py",
        "ClassVisualization.create_class_visualization",
        "target_y class_names model",
    ),
    **_functions("helpers/style_utils.py", "style_transfer"),
}

ASSIGNMENT, HOMEWORK = "assignment", "homework"


def _other(
    title: str, marks: tuple[str, ...], asks: Mapping[str, str], places: Mapping[str, Function]
) -> Edition:
    """Return another course's row: shorter steps of fooling images, any of visualization."""
    return Edition(title, marks, asks, step=1, unit_steps=False, places=places)


TABLE = {
    ASSIGNMENT: Edition(
        "CS7643 assignment 3, our starter",
        ("cli/session.py", "*.py: def draw_captum", "visualizers/*.py: from .common import"),
        _A3 | {"saliency_captum": "1.1", "guided_grad_cam": "1.2", "gradcam_captum": "1.2"},
        WIDE,
        eval_mode=False,
        quiet=True,
    ),
    HOMEWORK: Edition(
        "CS7643 homework, notebooks",
        ("cs7643/*.py", f"{NETWORK_CELLS}: # Yours: Question"),
        _NETWORK | _STYLE | _PAINTED,
        WIDE,
        eval_mode=False,
        quiet=True,
        places=_HOMEWORK,
    ),
    "a3-2023": Edition(
        "CS7643 assignment 3 of 2023, classes in the root's scripts",
        ("saliency_visualization.py", "helpers/style_utils.py"),
        {item: _A3[item] for item in ("saliency_map", "class_visualization", *_STYLE, *_PAINTED)},
        unit_steps=False,
        places=_SCRIPTS,
    ),
    "a3": Edition(
        "CS7643 assignment 3 as handed out",
        ("visualizers/*.py", "style_modules/*.py"),
        _A3,
        unit_steps=False,
        quiet=True,
        prepared=frozenset({"guided_backprop", "grad_cam"}),
    ),
    "cs231n": _other(
        "CS231n 2020, modules", ("cs231n/style_transfer_pytorch.py",), _NETWORK | _STYLE, _CS231N
    ),
    "cs231n-2021": _other(
        "CS231n 2021–2023, module without style transfer",
        ("cs231n/net_visualization_pytorch.py",),
        _NETWORK,
        _CS231N,
    ),
    "cs182": _other(
        "Berkeley CS182", ("deeplearning/network_visualization.py",), _NETWORK | _STYLE, _CS182
    ),
    "eecs-2022": _other(
        "EECS 498/598 A6",
        ("style_transfer.py: guided_gram_matrix",),
        _NETWORK | _STYLE | _GUIDED,
        _EECS,
    ),
    "eecs": _other(
        "EECS 498/598 A4",
        ("network_visualization.py: def make_adversarial_attack",),
        _NETWORK | _STYLE,
        _EECS,
    ),
    "eecs-2019": _other(
        "EECS 498/598 A4 of 2019, notebooks",
        (f"{NETWORK_CELLS}: def make_adversarial_attack",),
        _NETWORK | _STYLE,
        _CELLS | _functions(NETWORK_CELLS, fooling_image="make_adversarial_attack"),
    ),
    "cs231n-2018": _other(
        "CS231n 2018–2019, notebooks", tuple(NETWORK_CELLS.split("|")), _NETWORK | _STYLE, _CELLS
    ),
}


def recognised(root: Path) -> str:
    """Return the name of the edition that a folder's solution is of, "" where none is known."""
    marked = (
        name for name, edition in TABLE.items() if any(_is_there(root, m) for m in edition.marks)
    )
    return next(marked, "")


def _is_there(root: Path, mark: str) -> bool:
    pattern, _, text = mark.partition(": ")
    return any(text in path.read_text("utf-8", "replace") for path in files(root, pattern))


def files(root: Path, patterns: str) -> Iterator[Path]:
    """Yield the files that a row's patterns name."""
    for pattern in patterns.split("|"):
        yield from (path for path in sorted(root.glob(pattern)) if path.is_file())
