"""The process that measures an item: it calls the solution, and survives what that does."""

import contextlib
import faulthandler
import io
import json
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from checker import measures
from checker.editions import TABLE
from checker.items import UNASKED
from checker.server import LENGTH
from checker.solution import FAILED_IMPORTS, Missing, Solution

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

WRITES_NOTHING = ("feature_inversion",)  # items that call what belongs to others
MOST_MEMORY = 4 << 30  # bytes of addresses beyond those of torch
MOST_IN_A_FILE = 100 << 20  # bytes
MOST_LETTERS = 200  # of a message of the solution's


def run(
    item: str, edition: str, root: str, folder: str, patience: float, inputs: dict, result: int
) -> None:
    """Measure an item of the solution in `root`; the process that check.py's `measure` starts.

    What was found is written to the file descriptor `result`: its length, then numpy's format.
    """
    with contextlib.suppress(AttributeError):  # Windows
        os.setsid()  # so that whatever is started here can be ended with it
    limit_resources(patience)
    stack = (Path(folder) / "stack").open("w")
    faulthandler.dump_traceback_later(max(0.1, patience - 1), file=stack)
    os.chdir(folder)
    here = str(Path(__file__).resolve().parent.parent)
    sys.path[:] = [root, *(path for path in sys.path if path not in ("", here, root))]
    ours = {path.stem for path in Path(here).iterdir()} - {"checker"}
    for name in [name for name in sys.modules if name.partition(".")[0] in ours]:
        del sys.modules[name]  # imported by whoever has started this
    torch.set_num_threads(1)
    measures.inputs = measures.Inputs(**inputs)
    faulthandler.enable(stack)  # a crash names its place too
    with _recorded_output(root) as output:
        before = _globals()
        outcome = _measured(item, Solution(Path(root), TABLE[edition]))
        outcome["findings"] += [f"{name} is changed and left so" for name in _changed(before)]
    printing = outcome["status"] == "ok" and output.text.strip()
    if printing and TABLE[edition].quiet and item not in WRITES_NOTHING:
        printed = f"prints {output.text.strip().splitlines()[0][:40]!r}, {UNASKED}"
        outcome["findings"].append(printed)
        outcome["place"] = outcome["place"] or output.place
    faulthandler.cancel_dump_traceback_later()
    arrays, report = outcome.pop("arrays"), io.BytesIO()
    np.savez(report, outcome=json.dumps(outcome), **arrays)
    with open(result, "wb") as pipe:
        pipe.write(report.getbuffer().nbytes.to_bytes(LENGTH, "big") + report.getvalue())
    os._exit(0)  # nothing that the solution has left behind is waited for


def limit_resources(patience: float) -> None:
    """Bound a solution's memory, file size and processor time.

    The last ends what has escaped.
    """
    if resource is None:
        return
    with contextlib.suppress(OSError):  # no /proc
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _limit(resource.RLIMIT_AS, mapped + MOST_MEMORY)
    _limit(resource.RLIMIT_FSIZE, MOST_IN_A_FILE)
    _limit(resource.RLIMIT_CPU, 2 * int(patience) + 10)  # two threads of it, and torch's import
    _limit(resource.RLIMIT_CORE, 0)


def _limit(kind: int, value: int) -> None:
    with contextlib.suppress(OSError, ValueError):  # less is allowed already
        resource.setrlimit(kind, (value, value))


def _measured(item: str, solution: Solution) -> dict:
    """Call the item's function; whatever the solution raises is an outcome."""
    result: dict = {"status": "ok", "message": "", "place": "", "arrays": {}}
    try:
        result["arrays"] = getattr(measures, f"measure_{item}")(solution)
    except measures.Finding as finding:
        solution.findings.append(str(finding)[:300])
        result["arrays"] = finding.arrays
    except BaseException as error:  # SystemExit and KeyboardInterrupt too
        file = getattr(error, "file", "")
        result["place"] = file or _place(error, solution.root, solution.path(item))
        # torch raises NotImplementedError too, with other messages.
        blank = isinstance(error, Missing) or (
            type(error) is NotImplementedError
            and (not str(error) or str(error).startswith("Question "))
        )
        message, kind = _first_line(error), type(error).__name__[:80]
        result["message"] = (
            message or "not written yet" if blank else f"{kind}: {message}".rstrip(": ")
        )
        if isinstance(error, NameError) and FAILED_IMPORTS:
            result["message"] += f" ({FAILED_IMPORTS[0][:MOST_LETTERS]})"
        result["status"] = "missing" if blank else "error"
    return result | {"findings": solution.findings, "remarks": solution.remarks}


def _first_line(error: BaseException) -> str:
    """Return a message's beginning: more of it may quote what students are not to see."""
    with contextlib.suppress(Exception):  # its own __str__ fails
        return "".join(str(error).strip().splitlines()[:1])[:MOST_LETTERS]
    return ""


def _place(error: BaseException, root: Path, file: Path | None) -> str:
    """Return the innermost line of the item's file, or of the solution, that raised."""
    if isinstance(error, SyntaxError) and error.filename:
        places = [(Path(error.filename), error.lineno)]
    else:
        places = [
            (Path(frame.filename), frame.lineno)
            for frame in traceback.extract_tb(error.__traceback__)
        ]
    inside = [place for place in places if place[0].is_relative_to(root)]
    own = [place for place in inside if not place[0].relative_to(root).parts[0].startswith("check")]
    # Of a notebook: and the cell
    own = [place for place in own if str(place[0]).startswith(str(file))] or own
    return f"{own[-1][0].relative_to(root).as_posix()} line {own[-1][1]}" if own else ""


class _Recorder(io.TextIOBase):
    """Standard output that remembers what was written first, and where."""

    def __init__(self, root: str):
        self.root, self.text, self.place = root, "", ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if text.strip() and not self.text:
            frames = [
                f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(self.root)
            ]
            frames = [
                f
                for f in frames
                if not Path(f.filename).relative_to(self.root).parts[0].startswith("check")
            ]
            if frames:
                file = Path(frames[-1].filename).relative_to(self.root).as_posix()
                self.place = f"{file} line {frames[-1].lineno}"
        self.text = (self.text + text)[:1000]
        return len(text)


@contextlib.contextmanager
def _recorded_output(root: str) -> Iterator[_Recorder]:
    """Record standard output, also what goes past Python."""
    recorder, raw = _Recorder(root), Path.cwd() / "output"
    os.dup2(os.open(raw, os.O_CREAT | os.O_WRONLY), 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.stdout = recorder
    yield recorder
    recorder.text = recorder.text or raw.read_bytes().decode(errors="replace")


def _globals() -> dict[str, object]:
    """Return what a solution shares with everybody, and should leave alone."""
    return {
        "torch.is_grad_enabled()": torch.is_grad_enabled(),
        "torch.get_default_dtype()": torch.get_default_dtype(),
        "torch.nn.ReLU.forward": nn.ReLU.forward,
        "torch.nn.functional.relu": nn.functional.relu,
        "torch.relu": torch.relu,
        "numpy.geterr()": np.geterr(),
        "the working directory": Path.cwd(),
    }


def _changed(before: dict[str, object]) -> list[str]:
    now = _globals()
    return [name for name, value in before.items() if now[name] != value]
