"""Run a script: from options to exit status, each of the user's errors on one line.

Nothing heavy is imported before the options are parsed, so that `--help` and a mistyped option
answer at once. For the same reason the scripts import torch and what stands on it inside the
functions that need it.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from cli.options import make_parser
from cli.process import advice, check_working_directory, exit_now, import_torch, open_closed_streams
from files.atomic import unwinding_signals

if TYPE_CHECKING:
    from cli.session import Session

AddOptions = Callable[[argparse.ArgumentParser], None]


def make_main(
    module: str,
    description: str | None,
    add_options: AddOptions,
    make_figures: Callable[[Session], None],
) -> Callable[..., int]:
    """Return a script's `main(argv=None)`; where the script is the program, run it and exit.

    Args:
        module: the script's `__name__`.
        description: its `__doc__`.
        add_options: adds the script's own options to a parser.
        make_figures: does the work.
    """
    main = functools.partial(run, description or "", add_options, make_figures)
    if module == "__main__":
        exit_now(main(), make_figures.__code__.co_filename)
    return main


def run(
    description: str,
    add_options: AddOptions,
    make_figures: Callable[[Session], None],
    argv: Sequence[str] | None = None,
) -> int:
    """Run a script: parse the options, make the figures, report an error of the user's in one line.

    Returns:
        The exit status: 0, 2 for bad input, 130 when interrupted.
    """
    open_closed_streams()
    parser = make_parser(description)
    add_options(parser)
    options = parser.parse_args(argv)
    with unwinding_signals() as received, _notices(options.quiet):
        try:
            check_working_directory()
            import_torch()
            from cli.session import Session

            make_figures(Session(options))
            return 0
        except KeyboardInterrupt as error:
            message: str | None = str(error) or "interrupted"
            status = 130
        except Exception as error:
            message, status = advice(error), 2
            if received:  # the interruption has become another error
                message, status = "interrupted", 128 + received[-1]
            if message is None:
                raise
        print(f"{parser.prog}: error: {message}", file=sys.stderr)
        return status


@contextlib.contextmanager
def _notices(quiet: bool) -> Iterator[None]:
    """Set up notices: log records, printed on standard error."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR if quiet else before)
    try:
        yield
    finally:
        root.setLevel(before)
