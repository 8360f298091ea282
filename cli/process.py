"""The process: interruptions, a quick start and end, and lines to print."""

import argparse
import atexit
import contextlib
import errno
import gc
import importlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from errors import InputError, cause, is_out_of_memory, quoted
from files.atomic import unwinding_signals


def open_closed_streams() -> None:
    """Replace closed standard streams (`2>&-`) by the null device, or a file takes their place."""
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:
            setattr(sys, stream, Path(os.devnull).open("w"))  # noqa: SIM115


def show_any_letter() -> None:
    """Print characters that the console cannot encode as escapes (\\u732b) instead of failing."""
    with contextlib.suppress(AttributeError):  # a notebook's standard output shows all
        sys.stdout.reconfigure(errors="backslashreplace")


def print_line(line: str) -> None:
    """Print a line that the course asks for; a reader who has gone (`| head`) stops no work."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # usually a full disk
        raise InputError(f"cannot write to standard output: {cause(error)}") from error


# Of the machine, not of the work: the disk is full, too many files are open, a file is another's.
LACKING = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS),
    *(errno.EMFILE, errno.ENFILE, errno.EACCES),
)


def advice(error: Exception) -> str | None:
    """Return the message about an error that the user can put right; None for a defect."""
    # Of the students' edition
    blank = isinstance(error, NotImplementedError) and str(error).startswith("Question ")
    if isinstance(error, InputError) or blank:
        return " ".join(str(error).split())
    if isinstance(error, OSError) and (error.errno in LACKING or "No usable temp" in str(error)):
        return f"{cause(error)}: {quoted(error.filename)}" if error.filename else cause(error)
    if is_out_of_memory(error):
        return "out of memory; smaller pictures, a smaller --chunk or --device cpu need less"
    return None


@contextlib.contextmanager
def command(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Run a command's work: what a user can put right, and an interruption, are one line."""
    try:
        with unwinding_signals():
            check_working_directory()
            yield
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: error: interrupted\n")
    except (InputError, OSError) as error:
        if message := advice(error):
            parser.error(message)
        raise


def check_working_directory() -> None:
    """Raise InputError if the working directory was removed: torch cannot be loaded from there."""
    try:
        Path.cwd()
    except OSError:
        raise InputError("the working directory no longer exists; change to another one") from None


def prepare_torch() -> None:
    """Set what torch reads when it is imported; a setting of the user's wins.

    On a Mac, the CPU computes what Apple's GPU lacks. On Linux, torch uses the cores that other
    programs leave free: OpenMP's threads spin while they wait for one another. When one of them has
    no core, since other programs keep the cores busy, everything takes ten to a hundred times as
    long; with one thread per free core, two to three times.
    """
    if sys.platform == "darwin":
        os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    settings = (
        "OMP_NUM_THREADS",
        "OMP_WAIT_POLICY",
        "GOMP_SPINCOUNT",
        "KMP_BLOCKTIME",
        "MKL_NUM_THREADS",
    )
    load = Path("/proc/loadavg")  # Linux alone says how many threads run at this moment
    if "torch" in sys.modules or not load.exists() or any(name in os.environ for name in settings):
        return
    others = []
    for _ in range(8):  # what runs for a moment does not count
        others.append(int(load.read_text().split()[3].partition("/")[0]) - 1)
        time.sleep(0.01)
    cores = len(os.sched_getaffinity(0))
    if min(others) > 0:
        os.environ["OMP_NUM_THREADS"] = str(max(1, cores - min(others)))


def import_torch() -> None:
    """Import torch and torchvision with the garbage collector off, for the cores that are free.

    They make 400,000 objects that all stay; looking through them again and again costs half a
    second of the import, and as much afterwards.
    """
    if "torchvision" in sys.modules or not gc.isenabled():
        return
    prepare_torch()
    gc.disable()
    try:
        importlib.import_module("torchvision")
    finally:
        gc.enable()
    gc.freeze()
    # At the end Python looks through everything once, or libraries that count what is left would
    # complain.
    atexit.register(gc.unfreeze)
    atexit.register(gc.disable)


def exit_now(status: int, script: str) -> None:
    """End the process with a script's exit status.

    Python would first take torch's objects apart, which keeps the shell waiting for up to a second.
    So after the exit handlers the process ends at once, if it is the script's own: in a notebook, a
    debugger or a profiler Python ends it.

    Args:
        status: the exit status.
        script: the script's `__file__`.
    """
    if not _is_own_process(script):
        sys.exit(status)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # its reader has gone
            stream.flush()
    os._exit(status)


def _is_own_process(script: str) -> bool:
    """Return True if Python runs this very script, under no debugger or profiler."""
    # Options of Python's come before
    started = [name for name in sys.orig_argv[1:] if not name.startswith("-")][:1]
    monitoring = getattr(sys, "monitoring", None)  # from Python 3.12 on
    tools = [monitoring.get_tool(number) for number in range(6)] if monitoring else []
    watched = sys.getprofile() or sys.gettrace() or any(tools)
    interactive = sys.flags.inspect or hasattr(sys, "ps1")
    return (
        bool(started)
        and Path(started[0]).resolve() == Path(script).resolve()
        and not (watched or interactive)
    )
