"""The known mistakes: each is a change in the right solution that leaves code."""

import ast
import textwrap

import pytest

from course.mistakes import MISTAKES, RIGHT


@pytest.mark.parametrize("item", [name for name in MISTAKES if name in RIGHT])
def test_each_mistake_changes_the_right_solution(item):
    bodies = [RIGHT[item]]
    for old, new in MISTAKES[item].values():
        assert old in RIGHT[item]
        bodies.append(RIGHT[item].replace(old, new))
    assert len({*bodies}) == len(bodies)
    for body in bodies:
        ast.parse(f"def function():\n{textwrap.indent(body, '    ')}")
