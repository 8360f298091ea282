"""The Markdown tables are made from the items."""

import pytest

from course import tables
from files.atomic import ROOT


@pytest.mark.parametrize("name", tables.TABLES)
def test_the_markdown_tables_are_those_of_the_items(name):
    assert tables.updated(name) == (ROOT / "course" / name).read_text("utf-8")
