"""What every script shares: options, the session (device, network, photos, seed), figures, errors, progress.

Nothing heavy is imported before the options are parsed, so that `--help` and a mistyped option answer at once.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import functools
import gc
import itertools
import json
import logging
import os
import signal
import sys
import tempfile
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from file_utils import ROOT, InputError, reason, shown, written_whole

if TYPE_CHECKING:
    import numpy as np
    import torch

PAGE = 8  # photos in a figure and in a pass through the network; more photos go on further pages


class Parser(argparse.ArgumentParser):
    """An argument parser whose error is one line."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {message}\n")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Help with the defaults shown, except where the text says them or there is none."""

    def _get_help_string(self, action: argparse.Action) -> str:
        told = action.default is None or action.default is False or "(default" in action.help
        return action.help if told else super()._get_help_string(action)


def make_parser(description: str) -> Parser:
    """A parser with the options that all scripts share."""
    parser = Parser(description=description, formatter_class=_Help)
    add = parser.add_argument_group("options of all scripts").add_argument
    add("--images", nargs="+", metavar="PATH", help="your own photos or folders of them (default: the course's photos)")
    add(
        "--labels",
        nargs="+",
        metavar="CLASS",
        help="a class for each photo, id or name (default: the course's labels; for your photos the predicted class)",
    )
    add("--num", type=positive, metavar="N", help="how many photos (default: 5 of the course's; all of yours)")
    add("--arch", default="squeezenet1_1", metavar="NAME", help="a torchvision classification network")
    add(
        "--weights",
        default="auto",
        metavar="WEIGHTS",
        help="torchvision, bundled, none (random), the path of a state dict, or auto: for squeezenet1_1 what "
        "SQUEEZENET_WEIGHTS says if set; torchvision's, else bundled",
    )
    add("--device", default="auto", metavar="DEVICE", help="cuda, mps, cpu or auto (the fastest one there)")
    add("--out", type=Path, metavar="FOLDER", help="where the figures go (default: the project's visualization folder)")
    add("--seed", type=natural, default=1, metavar="N", help="of every random number")
    add(
        "--chunk",
        type=lambda text: _number(text, int, least=1, most=64),
        default=PAGE,
        metavar="N",
        help="photos per figure and per pass through the network, at most 64; fewer need less memory",
    )
    add("--quiet", action="store_true", default=False, help="no progress and no notices")
    return parser


def positive(text: str) -> int:
    """An option's whole number from 1."""
    return _number(text, int, least=1)


def natural(text: str) -> int:
    """An option's whole number from 0, small enough to be a seed."""
    return _number(text, int, least=0)


def positive_real(text: str) -> float:
    """An option's positive number."""
    return _number(text, float, above=0)


def natural_real(text: str) -> float:
    """An option's number from 0."""
    return _number(text, float, least=0)


def _number(text: str, kind: type, least: float | None = None, above: float | None = None, most: int = 2**63 - 1):
    try:
        number = kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a {'whole ' * (kind is int)}number") from None
    if (least is not None and not number >= least) or (above is not None and not number > above) or number > most:
        bound = f"at least {least}" if above is None else f"above {above}"
        limit = f" and at most {most}" if most < 2**63 - 1 or number > most else ""
        raise argparse.ArgumentTypeError(f"{shown(text)} is out of range; it must be {bound}{limit}")
    return number


def run(
    description: str,
    add_options: Callable[[argparse.ArgumentParser], None],
    make_figures: Callable[[Session], None],
    argv: Sequence[str] | None = None,
) -> int:
    """Run a script: parse the options, make the figures, turn what goes wrong into one line. Returns the exit status:
    0, 2 for bad input, 130 when interrupted.
    """
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed, as by `2>&-`; the next file to be opened would take its place
            setattr(sys, stream, Path(os.devnull).open("w"))  # noqa: SIM115
    parser = make_parser(description)
    add_options(parser)
    options = parser.parse_args(argv)
    with _stoppable() as asked, _notices(options.quiet):
        try:
            make_figures(Session(options))
            return 0
        except KeyboardInterrupt as error:
            return _fail(parser, str(error) or "interrupted", 130)
        except Exception as error:
            if asked:
                return _fail(parser, "interrupted", 128 + asked[-1])
            if (words := remedy(error)) is None:
                raise
            return _fail(parser, words, 2)


def remedy(error: Exception) -> str | None:
    """What to tell the user of an error that is theirs to put right; None for a defect."""
    if isinstance(error, InputError):
        return " ".join(str(error).split())
    said = ("out of memory", "allocate memory", "not enough memory")
    if isinstance(error, MemoryError) or any(words in str(error) for words in said):
        return "out of memory; a smaller --chunk or --device cpu needs less"
    return None


def _fail(parser: argparse.ArgumentParser, message: str, status: int) -> int:
    print(f"{parser.prog}: error: {message}", file=sys.stderr)
    return status


def leave(status: int) -> NoReturn:
    """End the process. Python would first take torch's objects apart, which keeps the shell waiting for up to a second;
    after the exit handlers nothing is left to do, since every file is closed as soon as it is written.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # its reader has gone
            stream.flush()
    os._exit(status)


@contextlib.contextmanager
def _stoppable() -> Iterator[list[int]]:
    """Let SIGINT and SIGTERM unwind the stack, so that temporary files go. Gives the list of those that came.

    Modules in the midst of their import turn the exception into another error or abort, so its end is waited for. Other
    code may swallow it; then it is raised again.
    """
    before, asked, again = {}, [], []

    def stop(number, frame):
        asked.append(number)
        ours = itertools.takewhile(lambda f: f.f_code is not run.__code__, (f for f, _ in traceback.walk_stack(frame)))
        importing = any(f.f_code.co_filename.startswith("<frozen importlib") for f in ours)
        again.append(threading.Timer(0.1 if importing else 2, signal.raise_signal, (number,)))
        again[-1].daemon = True
        again[-1].start()
        if not importing:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(143)

    with contextlib.suppress(ValueError):  # not in the main thread
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:  # as in the background of a shell
                before[number] = signal.signal(number, stop)
    try:
        yield asked
    finally:
        for timer in again:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _notices(quiet: bool) -> Iterator[None]:
    """Notices are log records, which Python prints on standard error when nothing else is set up."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR if quiet else before)
    try:
        yield
    finally:
        root.setLevel(before)


def say(line: str) -> None:
    """Print a line that the course asks for. A reader who has gone (`| head`) is no reason to stop the work.

    Raises:
        InputError: it cannot be written.
    """
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a full disk, as a rule
        raise InputError(f"cannot write to standard output: {reason(error)}") from error


@dataclass
class Page:
    """Photos that share a figure."""

    number: int  # from 1
    X: np.ndarray  # uint8 (n, H, W, 3)
    images: torch.Tensor  # float32 (n, 3, H, W), normalised, on the device
    y: torch.Tensor  # int64 (n,), on the device
    titles: list[str]

    def file(self, name: str) -> str:
        """The figure's file name on this page: name.png, name_2.png, …"""
        path = Path(name)
        return name if self.number == 1 else f"{path.stem}_{self.number}{path.suffix}"


class Session:
    """The options of a run and what follows from them, each made when it is first used."""

    def __init__(self, options: argparse.Namespace, model=None):
        """Check the output folder; set the seed. `model`: a network that is loaded already."""
        self.options = options
        self.out = self.folder("visualization")
        # Before torch comes in: no figure here needs a display, whatever the user's setting.
        os.environ["MPLBACKEND"] = "Agg"
        _import_torch()
        if model is not None:
            self.model = model
        self.seed()

    def seed(self) -> None:
        """Start all random numbers anew from the seed."""
        import torch

        torch.manual_seed(self.options.seed)
        torch.backends.cudnn.deterministic = True

    def folder(self, name: str) -> Path:
        """The folder for results: the project's `name`, or the one given by --out; made when missing.

        Raises:
            InputError: it cannot be made or written.
        """
        folder = self.options.out or ROOT / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise InputError(f"cannot write into the folder {shown(folder)}: {reason(error)}") from error
        return folder

    @functools.cached_property
    def model(self):
        """The network, frozen, in eval mode, on the device."""
        from model_utils import load_model

        return load_model(self.options.arch, self.options.weights, self.options.device)

    @property
    def device(self):
        """The network's device."""
        return next(self.model.parameters()).device

    @functools.cached_property
    def class_names(self) -> dict[int, str]:
        """Class id → name."""
        return self._course[2] if self.options.images is None else _imagenet_classes()

    @functools.cached_property
    def _course(self):
        from data_utils import load_imagenet_val

        return load_imagenet_val(self.options.num or 5)

    @functools.cached_property
    def photos(self) -> tuple[np.ndarray, np.ndarray]:
        """X uint8 (N, 224, 224, 3) and y int64 (N,), by --images, --labels and --num.

        Raises:
            InputError: photos or labels that cannot be used.
        """
        import numpy as np

        from data_utils import load_images, parse_label

        options, labels = self.options, None
        if options.labels is not None:
            labels = np.array([parse_label(text, self.class_names) for text in options.labels], dtype=np.int64)
        X = self._course[0] if options.images is None else load_images(options.images)[: options.num]
        if labels is None:
            labels = self._course[1] if options.images is None else self._predictions(X)
        if len(labels) != len(X):
            raise InputError(f"--labels: {len(labels)} labels for {len(X)} photos; give one for each")
        return X, labels

    def _predictions(self, X) -> np.ndarray:
        import torch

        from image_utils import to_batch

        with torch.no_grad():
            chunks = range(0, len(X), self.options.chunk)
            scores = [self.model(to_batch(X[i : i + self.options.chunk]).to(self.device)) for i in chunks]
        scores = torch.cat(scores)
        if not scores.isfinite().all():
            raise InputError("the network's scores are not finite (NaN or infinity): its weights are damaged")
        return scores.argmax(dim=1).cpu().numpy()

    def pages(self, description: str) -> Iterator[Page]:
        """The photos, a page at a time, under a progress bar."""
        import torch

        from image_utils import to_batch

        X, y = self.photos
        for number, start in enumerate(self.progress(range(0, len(X), self.options.chunk), description), start=1):
            if number > 1:
                gc.collect()  # the parts of a figure refer to one another: uncollected, the pages' figures pile up
            part = slice(start, start + self.options.chunk)
            titles = [self.title(label) for label in y[part]]
            yield Page(
                number, X[part], to_batch(X[part]).to(self.device), torch.from_numpy(y[part]).to(self.device), titles
            )

    def title(self, label: int) -> str:
        """The first synonym of a class's name."""
        return class_title(self.class_names, label)

    def progress(self, iterable: Iterable | None = None, description: str = "", total: int | None = None):
        """A tqdm bar on standard error, when that is a terminal and the work takes longer than 2 seconds."""
        from tqdm import tqdm

        return tqdm(
            iterable, desc=description, total=total, delay=2, leave=False, disable=True if self.options.quiet else None
        )

    def save_figure(self, figure, name: str, folder: Path | None = None) -> None:
        """Save a figure as a PNG that records how it was made."""
        save_figure(figure, (folder or self.out) / name, self.model, self.options.seed, self.options)

    def save_image(self, image, name: str, folder: Path | None = None) -> None:
        """Save a PIL picture as a PNG that records how it was made."""
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        for key, value in metadata(self.model, self.options.seed, self.options).items():
            info.add_text(key, value)
        with written_whole((folder or self.out) / name) as temporary:
            image.save(temporary, format="PNG", pnginfo=info)


def _import_torch() -> None:
    """Import torch and torchvision, and keep the garbage collector from the 400,000 objects that they make. All of them
    stay, and it would look through them again and again: for half a second of the import, and as long afterwards.
    """
    if "torchvision" in sys.modules or not gc.isenabled():
        return
    gc.disable()
    try:
        import torchvision  # noqa: F401
    finally:
        gc.enable()
    gc.freeze()
    # At the end Python looks once in any case, without which libraries that count what is left would complain.
    atexit.register(gc.unfreeze)
    atexit.register(gc.disable)


def class_title(class_names: Mapping[int, str], label: int) -> str:
    """The first synonym of a class's name; the course's own map lacks class 134."""
    return str(class_names.get(int(label), f"class {label}")).split(",")[0]


def _imagenet_classes() -> dict[int, str]:
    from data_utils import imagenet_classes

    return imagenet_classes()


def metadata(model, seed: int | None, options: argparse.Namespace | None = None) -> dict[str, str]:
    """The PNG's text: network, weights, seed, library versions, and the options that only the script has, as JSON."""
    from importlib.metadata import version

    shared = vars(make_parser("").parse_args([]))
    own = {key: value for key, value in vars(options or argparse.Namespace()).items() if key not in shared}
    return {
        "Network": getattr(model, "arch", "unknown" if model is None else type(model).__name__),
        "Weights": getattr(model, "weights_name", "unknown").encode(errors="replace").decode(),  # any file's name
        "Seed": "none" if seed is None else str(seed),
        "Software": ", ".join(f"{p} {version(p)}" for p in ("torch", "torchvision", "captum", "matplotlib", "pillow")),
        **({"Options": json.dumps(own, default=lambda path: path.name)} if options else {}),
    }


# --- Figures: tiles of pixels, one by one, under and beside words ---

DPI = 100
GAP = 6  # pixels between tiles
TITLE_BAND = 42  # pixels above a column, two lines
HEADING_BAND = 34
LABEL_BAND = 160  # pixels left of a row, three lines
SMALLEST_TILE = 160  # pixels; smaller pictures are enlarged by whole factors, so that titles fit


def save_figure(
    figure, path: Path, model=None, seed: int | None = None, options: argparse.Namespace | None = None
) -> None:
    """Save a matplotlib figure as a PNG, whole or not at all, with network, weights, seed, versions and options in it.

    Raises:
        InputError: the file cannot be written.
    """
    with written_whole(path) as temporary:
        text, fast = metadata(model, seed, options), {"compress_level": 3}  # half the time of 6, for 6 % more bytes
        figure.savefig(temporary, format="png", metadata=text, pil_kwargs=fast)


def heat(values: np.ndarray, cmap: str = "hot", spread: bool = True) -> np.ndarray:
    """A map (H, W) as uint8 colours (H, W, 3); with `spread` its own range fills the colour map, else [0, 1] does."""
    import matplotlib

    from image_utils import rescale

    return matplotlib.colormaps.get_cmap(cmap)(rescale(values) if spread else values, bytes=True)[..., :3]


def overlay(photo: np.ndarray, colours: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """Colours over a photo, both uint8 (H, W, 3); `alpha` is the share of the colours."""
    return (alpha * colours + (1 - alpha) * photo).round().astype("uint8")


def draw_rows(
    rows: Sequence[tuple[str, Sequence[np.ndarray]]], titles: Sequence[str | Sequence[str]], heading: str = ""
):
    """A figure with a grid of pictures, drawn pixel by pixel.

    Args:
        rows: the label of each row (empty: none) and its tiles, uint8 (H, W, 3), all of one size.
        titles: of the columns; or, one list per row, of every tile.
        heading: over the whole.

    Returns:
        matplotlib.figure.Figure.
    """
    import numpy as np
    from matplotlib.figure import Figure

    per_tile = bool(titles) and not isinstance(titles[0], str)
    factor = max(1, -(-SMALLEST_TILE // min(rows[0][1][0].shape[:2])))
    tall, wide = (side * factor for side in rows[0][1][0].shape[:2])
    left = LABEL_BAND if any(label for label, _ in rows) else GAP
    bands = [TITLE_BAND if per_tile or (i == 0 and titles) else 0 for i in range(len(rows))]
    columns = max(len(tiles) for _, tiles in rows)
    width = left + columns * (wide + GAP)
    height = HEADING_BAND * bool(heading) + sum(bands) + len(rows) * (tall + GAP) + GAP
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    canvas = np.full((height, width, 3), 255, np.uint8)

    def write(x: float, y: float, words: str, size: float, room: int, lines: int, **how) -> None:
        fitting = max(4, int(room / (0.62 * size * DPI / 72)))  # letters are about 0.62 as wide as high
        lines = textwrap.wrap(words, fitting, max_lines=lines, placeholder=" …")
        figure.text(x / width, 1 - y / height, "\n".join(lines), fontsize=size, parse_math=False, **how)

    top = HEADING_BAND * bool(heading)
    if heading:
        write(GAP, top / 2, heading, 12, width, 1, va="center", ha="left", weight="bold")
    for i, (label, tiles) in enumerate(rows):
        top += bands[i]
        if label:
            write(GAP, top + tall / 2, label, 10.5, LABEL_BAND - 2 * GAP, 3, va="center", ha="left")
        for j, tile in enumerate(tiles):
            x = left + j * (wide + GAP)
            canvas[top : top + tall, x : x + wide] = tile.repeat(factor, axis=0).repeat(factor, axis=1)
            if bands[i]:
                words = titles[i][j] if per_tile else titles[j]
                write(x + wide / 2, top - GAP, words, 10, wide, 2, va="bottom", ha="center")
        top += tall + GAP
    figure.figimage(canvas, 0, 0, origin="upper", zorder=-1)
    return figure
