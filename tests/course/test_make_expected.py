"""data/expected.npz is what its generator computes; tried with the quickest item."""

import numpy as np
import pytest
from solutions import ITEMS, expected

from course.make_expected import with_change
from course.mistakes import MISTAKES, RIGHT


@pytest.mark.slow
def test_the_stored_values_are_the_generator_s(solution):
    item, known = ITEMS["tv_loss"], MISTAKES["tv_loss"]
    assert expected().mistakes["tv_loss"] == list(known)
    right = with_change(item, solution, RIGHT["tv_loss"], "down", "down")
    wrong = with_change(item, solution, RIGHT["tv_loss"], *known["weight forgotten"])
    for found, stored in (
        (right, expected().values("tv_loss")),
        (wrong, expected().values("tv_loss", [*known].index("weight forgotten"))),
    ):
        assert found.keys() == stored.keys()
        assert all(np.allclose(found[key], stored[key], rtol=1e-4) for key in stored)
    with pytest.raises(ValueError, match="is not in the right solution"):
        with_change(item, solution, RIGHT["tv_loss"], "absent", "")
