"""The scripts' options: the parser, those of all scripts, and those about photos."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from errors import quoted


class Parser(argparse.ArgumentParser):
    """An argument parser whose error is one line."""

    def error(self, message: str):
        """Print one line and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Help that shows defaults, except where the text says them or there is none."""

    def __init__(self, prog: str):
        """Leave more room for the options, so that fewer take two lines."""
        super().__init__(prog, max_help_position=30)

    def _get_help_string(self, action: argparse.Action) -> str:
        stated = (
            action.default is None or action.default is False or "(default" in (action.help or "")
        )
        return (action.help or "") if stated else super()._get_help_string(action) or ""


def make_parser(description: str) -> Parser:
    """Return a parser with the options of all scripts."""
    parser = Parser(description=description, formatter_class=_Help)
    add = parser.add_argument_group("network and output").add_argument
    add(
        "--arch",
        default="squeezenet1_1",
        metavar="NAME",
        help="a torchvision classification network, or one of your own, FILE.py:NAME: a module in "
        "that file, or what "
        "returns one when called",
    )
    add(
        "--weights",
        default="auto",
        metavar="WEIGHTS",
        help="torchvision, bundled, none (random), the path of a checkpoint, or auto: for "
        "squeezenet1_1 what "
        "SQUEEZENET_WEIGHTS says if set; torchvision's, else bundled; those that a network of your "
        "own comes with",
    )
    add(
        "--device",
        default="auto",
        metavar="DEVICE",
        help="cuda, mps, cpu or auto (the fastest one there)",
    )
    add(
        "--out",
        type=named_path,
        metavar="FOLDER",
        help="where figures go (default: the project's visualization folder)",
    )
    add("--seed", type=whole_number(0), default=1, metavar="N", help="random seed")
    add("--quiet", action="store_true", default=False, help="no progress and no notices")
    _add_network_options(parser)
    return parser


def _add_network_options(parser: argparse.ArgumentParser) -> None:
    """Add what a network of one's own may not say of itself."""
    title = "how the network takes photos and gives scores (default: what it says of itself)"
    add = parser.add_argument_group(title).add_argument
    numbers: dict[str, Any] = {"nargs": "+", "metavar": "X"}
    what = "of its photos' pixels, one number or three"
    add("--mean", type=real_number(-(2**63)), **numbers, help=f"mean {what}")
    add("--std", type=real_number(above=True), **numbers, help=f"standard deviation {what}")
    ranges = (
        "the largest value of a pixel before mean and std (default: 255 where a mean is above 1); "
        "without these the pixels are not normalised"
    )
    add("--range", type=int, choices=(1, 255), dest="pixel_range", help=ranges)
    output = "of several outputs the one with the scores: a key, a field's name or a number"
    add("--output", metavar="KEY", help=output)
    sigmoid = "classes that do not exclude one another: probabilities by the sigmoid"
    add("--sigmoid", action="store_true", default=False, help=sigmoid)


def add_photo_options(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add those of the options in `PHOTO_OPTIONS` that a script uses."""
    group = parser.add_argument_group("photos")
    for name in names:
        group.add_argument(f"--{name.replace('_', '-')}", **PHOTO_OPTIONS[name])


def named_path(text: str) -> Path:
    """Return the path that an option names; an empty name is refused, not taken as this folder."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty")
    return Path(text)


def whole_number(least: int, most: int = 2**63 - 1) -> Callable[[str], int]:
    """Return the parser of an option that takes a whole number."""
    return lambda text: _number(text, int, least, most)


def real_number(least: float = 0, above: bool = False) -> Callable[[str], float]:
    """Return the parser of an option that takes a number from `least` on, or only above it."""
    return lambda text: _number(text, float, least, 2**63 - 1, above)


def _number(text: str, kind: type, least: float, most: float, above: bool = False):
    try:
        number = kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{quoted(text)} is not a {'whole ' * (kind is int)}number"
        ) from None
    if not (number > least if above else number >= least) or number > most:
        limit = f" and at most {most}" if most < 2**63 - 1 or number > most else ""
        bound = f"{'above' if above else 'at least'} {least}{limit}"
        raise argparse.ArgumentTypeError(f"{quoted(text)} is out of range; it must be {bound}")
    return number


PHOTO_OPTIONS: dict[str, dict] = {
    "images": {
        "nargs": "+",
        "metavar": "PATH",
        "help": "your own photos or folders of them, wildcards allowed (default: the course's)",
    },
    "labels": {
        "nargs": "+",
        "metavar": "CLASS",
        "help": "a class for each photo, id or name (default: the course's labels for its photos "
        "and ImageNet's "
        "classes, else the predicted ones), or guess: the predicted ones in any case",
    },
    "num": {
        "type": whole_number(1),
        "metavar": "N",
        "help": "how many photos (default: 5 course photos, or all photos in --images)",
    },
    "chunk": {
        "type": whole_number(1, 64),
        "default": 8,
        "metavar": "N",
        "help": "pictures per figure and per pass through the network, at most 64; fewer need less "
        "memory",
    },
    "size": {
        "type": whole_number(16, 2048),
        "metavar": "PIXELS",
        "help": "short side of the pictures that the network sees (default: the network's own, of "
        "SqueezeNet 224)",
    },
    "whole": {
        "action": "store_true",
        "default": False,
        "help": "the whole photos at their own proportions instead of their middle squares; each "
        "Grad-CAM map is then "
        "scaled alone",
    },
    "per_image": {
        "action": "store_true",
        "default": False,
        "help": "scale each Grad-CAM map alone (default: those of a figure together, as the course "
        "does)",
    },
    "against": {
        "metavar": "CLASS",
        "help": "also why the photos' classes and not this one, id or name: maps of the difference "
        "of their scores; or second: each photo's likeliest other class",
    },
    "wrong_first": {
        "action": "store_true",
        "default": False,
        "help": "the photos that the network gets wrong come first, with the maps of their label "
        "and of the guess",
    },
    "arrays": {
        "action": "store_true",
        "default": False,
        "help": "also write maps.npz (the maps from scratch as float32, the labels, the photos' "
        "names), "
        "predictions.csv (guess and runner-up, with probabilities) and, of Grad-CAM, each photo's "
        "overlay as a "
        "picture of its own",
    },
    "figures": {
        "type": whole_number(1),
        "metavar": "N",
        "help": "how many pages of photos get figures, the first ones (default: all; with --arrays "
        "10)",
    },
    "classes": {
        "type": named_path,
        "metavar": "FILE",
        "help": "the names of the network's classes: one a line, or JSON, a list or id → name "
        "(default: ImageNet's "
        "names where there are 1000, else 'class 3')",
    },
}
# Recorded in the figures where they are not the default.
RECORDED = ("size", "whole", "per_image", "against", "wrong_first")
# Which figures are made, not how: recorded in none.
SELECTION = {"techniques", "captum"}
# Recorded in every figure by other words, or not at all; the others are a script's own.
NETWORK_OPTIONS = {"arch", "weights", "device", "mean", "std", "pixel_range", "output", "sigmoid"}
SHARED_OPTIONS = NETWORK_OPTIONS | {"out", "seed", "quiet"} | PHOTO_OPTIONS.keys()


def photo_option(options: argparse.Namespace, name: str) -> Any:
    """Return the value of an option about photos; its default where a script lacks the option."""
    return getattr(options, name, PHOTO_OPTIONS[name].get("default"))
