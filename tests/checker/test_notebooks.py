"""A student's notebook as a package: its definitions alone are run."""

import json
from pathlib import Path

import pytest

from checker.notebooks import cells


def test_of_a_notebook_only_definitions_are_run(tmp_path):
    code = [
        "import math, no_such_package_of_anybody\nfrom no_such_package_of_anybody import thing",
        "%matplotlib inline\n!exit 1\nSCALE = 3\nopen('written', 'w')\ndef scaled(x):\n    return "
        "SCALE * x",
        "def broken(x:\n    return x",
        "%%bash\nexit 1",
        "class Kept:\n    value = scaled(2)",
    ]
    path = tmp_path / "notebook.ipynb"
    path.write_text(
        json.dumps({"cells": [{"cell_type": "code", "source": source} for source in code]})
    )
    module = cells(path)
    assert module.scaled(2) == module.Kept.value == 6 and not Path("written").exists()
    with pytest.raises(SyntaxError) as caught:
        module.broken(1)
    assert caught.value.filename == f"{path} cell 3"
    with pytest.raises(NotImplementedError, match="absent"):
        module.absent(1)
