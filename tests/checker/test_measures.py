"""What the items measure: right solutions pass, each known mistake is named."""

import pytest
from solutions import ITEMS, RIGHT, WRONG, outcome, put

import check

# Items that run a function of the file: all others import none of it, so that nothing there can
# reach them.
RELATED = {
    file: [item.name for item in check.ITEMS if item.file == file]
    + ["feature_inversion"] * file.startswith("style")
    for file in {item.file for item in check.ITEMS}
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_a_right_solution_written_differently_is_ok(name, solution):
    put(solution, name, RIGHT[name])
    found = {related: outcome(solution, related) for related in RELATED[ITEMS[name].file]}
    assert {name: o.status for name, o in found.items()} == dict.fromkeys(found, "ok"), found


@pytest.mark.slow
def test_right_functions_that_use_one_another_are_ok(solution):
    for name, body in RIGHT.items():
        put(solution, name, body)
    found = list(check.check(solution, check.ITEMS))
    assert {o.name: o.status for o in found} == dict.fromkeys(ITEMS, "ok"), found


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, old, new, words", WRONG, ids=[f"{name}: {words}" for name, *_, words in WRONG]
)
def test_a_mistake_is_recognised_and_costs_nothing_elsewhere(name, old, new, words, solution):
    right = RIGHT[name]
    assert old is None or old in right
    put(solution, name, new if old is None else right.replace(old, new))
    found = {related: outcome(solution, related) for related in RELATED[ITEMS[name].file]}
    wrong = found.pop(name)
    assert wrong.status == "wrong" and words in wrong.words, wrong
    assert f"({ITEMS[name].file} line " in wrong.words and "\n" not in wrong.words, wrong
    assert {name: o.status for name, o in found.items()} == dict.fromkeys(found, "ok"), found


def test_there_are_enough_mistakes():
    assert len(WRONG) >= 30 and {name for name, *_ in WRONG} >= RIGHT.keys()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, old, new, words",
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
def test_a_mistake_with_captum_is_recognised(name, old, new, words, solution):
    path = solution / ITEMS[name].file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    wrong = outcome(solution, name)
    assert wrong.status == "wrong" and words in wrong.words, wrong
