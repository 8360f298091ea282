"""Inputs that students do not have: from the seed alone, and such that faults show."""

import json
from dataclasses import asdict

import pytest

from checker import measures
from course import grade
from course.hidden import draw, main
from visualizers import FoolingImage


@pytest.mark.slow
def test_inputs_come_from_the_seed_and_a_class_is_reached_in_a_few_steps(
    monkeypatch, bundled_model, hidden
):
    monkeypatch.setattr(measures, "inputs", measures.inputs)  # what `draw` leaves there
    other, drawn = draw(3), draw(7)
    assert json.loads(json.dumps(asdict(drawn))) == grade.stored(hidden).inputs != asdict(other)
    _, images, _ = measures.photos()
    assert images.shape[2:] == drawn.size
    steps = []
    FoolingImage().make_fooling_image(
        images[1:], drawn.target, bundled_model, callback=steps.append
    )
    assert 3 <= len(steps) - 1 <= 6


def test_a_seed_that_cannot_be_is_one_line(capsys, tmp_path):
    with pytest.raises(SystemExit) as caught:
        main(["--seed", "0", "--out", str(tmp_path / "hidden.npz")])
    assert caught.value.code == 2 and "--seed" in capsys.readouterr().err
