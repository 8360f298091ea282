"""The modules of the course's notebook edition: what a notebook beside this folder imports."""

import sys
from pathlib import Path

# The project's root, where the work is done; at the end, so that nothing of the notebook's is
# hidden.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from cli.process import prepare_torch

prepare_torch()  # if this comes before torch
