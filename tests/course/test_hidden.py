"""Inputs that students do not have: from the seed alone, and such that faults show."""

import json
from dataclasses import asdict

import pytest

import check
from checker import measures
from checker.editions import TABLE
from checker.items import of_edition
from course import grade
from course.hidden import PAIR, _is_signed, draw, main
from course.make_starter import hidden_values
from files.atomic import ROOT
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


@pytest.mark.slow
def test_what_captum_draws_needs_its_relu(monkeypatch, bundled_model):
    monkeypatch.setattr(measures, "inputs", measures.inputs)
    drawn = draw(210)
    _, whole, _ = measures.photos(PAIR)
    for image, (*_, label) in zip(whole.split(1), drawn.photos, strict=True):
        assert _is_signed(bundled_model, image, label)


@pytest.mark.slow
def test_another_edition_gets_inputs_and_values_of_its_own(tmp_path):
    path, edition = tmp_path / "hidden.npz", "cs231n-2021"
    path.write_bytes(hidden_values(4, edition))
    drawn = grade.stored(path)
    assert drawn.inputs["size"] == [224, 224] and drawn.inputs["seed"] == 4
    found = check.check(ROOT / "notebooks", of_edition(edition), hidden=drawn, edition=edition)
    assert {outcome.status for outcome in found} == {"ok"}
    shown = check.Expected(check.EXPECTED)
    for item in of_edition(edition):
        name = TABLE[edition].values(item.name)
        assert check.distance(drawn.values(name), shown.values(name)) > item.tolerance


def test_a_seed_that_cannot_be_is_one_line(capsys, tmp_path):
    with pytest.raises(SystemExit) as caught:
        main(["--seed", "0", "--out", str(tmp_path / "hidden.npz")])
    assert caught.value.code == 2 and "--seed" in capsys.readouterr().err
