"""The saliency maps and figures of any number of photos, without Captum's: `python benchmarks/many.py PATH…`."""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from saliency_map import draw_manual
from script_utils import Session, make_parser

with tempfile.TemporaryDirectory() as folder:
    options = make_parser("").parse_args(["--out", folder, "--quiet", "--images", *sys.argv[1:]])
    session = Session(options)
    for page in session.pages(""):
        draw_manual(session, page)
