"""The saliency maps and figures of any number of photos, without Captum's: `python benchmarks/many.py PATH…`."""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cli.options import make_parser
from cli.process import import_torch
from saliency_map import add_options, draw_manual

import_torch()

from cli.pages import Dataset, figure_saver  # noqa: E402
from cli.session import Session  # noqa: E402

with tempfile.TemporaryDirectory() as folder:
    parser = make_parser("")
    add_options(parser)
    session = Session(parser.parse_args(["--out", folder, "--quiet", "--images", *sys.argv[1:]]))
    for page in Dataset(session).pages(""):
        draw_manual(session.model, page, figure_saver(session, page))
