"""What the items measure: each known mistake is named; right solutions stand in
tests/course/test_make_starter.py.
"""

import numpy as np
import pytest
import torch
from solutions import ITEMS, RIGHT, WRONG, expected, outcome, put
from torch import nn

import check
from checker import measures

# Items that run a function of the file: all others import none of it, so that nothing there can
# reach them.
RELATED = {
    file: [item.name for item in check.ITEMS if item.file == file]
    + ["feature_inversion"] * file.startswith("style")
    for file in {item.file for item in check.ITEMS}
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, old, new, message", WRONG, ids=[f"{name}: {message}" for name, *_, message in WRONG]
)
def test_a_mistake_is_recognised_and_costs_nothing_elsewhere(name, old, new, message, solution):
    right = RIGHT[name]
    assert old is None or old in right
    put(solution, name, new if old is None else right.replace(old, new))
    first = (name, old, new, message) == next(each for each in WRONG if each[0] == name)
    others = RELATED[ITEMS[name].file] if first else [name]
    found = {related: outcome(solution, related) for related in others}
    wrong = found.pop(name)
    assert wrong.status == "wrong" and message in wrong.message, wrong
    assert f"({ITEMS[name].file} line " in wrong.message and "\n" not in wrong.message, wrong
    assert {name: o.status for name, o in found.items()} == dict.fromkeys(found, "ok"), found


def test_the_guided_items_hold_what_the_courses_notebook_prints():
    gram, loss = (
        expected().values(name)[f"{group}/{measures.NUMBERS}"]
        for name, group in (("guided_gram_matrix", "gram"), ("guided_style_loss", "loss"))
    )
    printed = [[0.0601, -0.0172, 0.0375], [-0.0172, 0.2454, 0.0670], [0.0375, 0.0670, 0.1415]]
    np.testing.assert_allclose(gram[0, 0], printed, rtol=0, atol=1e-4)
    assert loss == pytest.approx(267.6274, rel=1e-6)


def test_there_are_enough_mistakes():
    assert len(WRONG) >= 30 and {name for name, *_ in WRONG} >= RIGHT.keys()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, old, new, message",
    [
        (
            "saliency_captum",
            "values.amax(dim=0",
            "values.sum(dim=0",
            "Saliency summed over the channels",
        ),
        (
            "gradcam_captum",
            ", relu_attributions=True",
            "",
            "LayerGradCam without relu_attributions",
        ),
    ],
)
def test_a_mistake_with_captum_is_recognised(name, old, new, message, solution):
    path = solution / ITEMS[name].file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    wrong = outcome(solution, name)
    assert wrong.status == "wrong" and message in wrong.message, wrong


def test_what_a_function_leaves_changed_is_named():
    model, X = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), torch.ones(1, 2)

    def found() -> list[str]:
        return measures._changes(model, state, X, torch.ones(1, 2))

    state = measures._state(model)
    assert found() == []
    handle = model[0].register_forward_hook(lambda *_: None)
    assert len(found()) == 1 and "hooks are left" in found()[0]
    handle.remove()
    model[1] = nn.Identity()
    X += 1
    ruined, overwritten = found()
    assert "ruined" in ruined and "hooks" not in ruined and "overwritten" in overwritten
