"""The update rules of style transfer: the weights of the terms, the steps, and the list of them."""

import pytest
import torch

import style_transfer
from style_modules.rules import RULES, AdamRule, CourseRule, LBFGSRule


def picture(seed: int = 0) -> torch.Tensor:
    return torch.randn(
        1, 3, 8, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def step(rule, t: int, content: torch.Tensor) -> None:
    """Take a step as `style_transfer` does, when the content is the only term."""
    optimizer = rule.optimizer(t)
    optimizer.zero_grad()
    loss = rule.content_share(t) * content
    loss.backward()
    optimizer.step(loss.item)


def share_of_content(make_rule, count: int, t: int) -> float:
    """By how much the content counts in step t: its gradient there over its own gradient."""
    rule = make_rule(picture(), count)
    seen = rule.picture(t)
    content = seen.square().sum()
    variable = rule.pixels if isinstance(rule, CourseRule) else rule.coefficients
    (whole,) = torch.autograd.grad(content, variable, retain_graph=True)
    step(rule, t, content)
    share = (variable.grad * whole).sum() / whole.square().sum()
    torch.testing.assert_close(variable.grad, share * whole)
    return share.item()


@pytest.mark.parametrize("make_rule", [AdamRule, LBFGSRule])
def test_until_five_steps_before_the_end_the_content_counts_less(make_rule):
    shares = [share_of_content(make_rule, 8, t) for t in range(8)]
    assert shares == pytest.approx([0.7] * 3 + [1.0] * 5)


@pytest.mark.parametrize("make_rule", [AdamRule, LBFGSRule])
@pytest.mark.parametrize("count", [1, 3, 5])
def test_in_five_steps_or_fewer_the_content_counts_fully(make_rule, count):
    assert [share_of_content(make_rule, count, t) for t in range(count)] == pytest.approx(
        [1.0] * count
    )


def test_the_course_s_rule_weighs_the_content_fully():
    assert [share_of_content(CourseRule, 30, t) for t in range(30)] == pytest.approx([1.0] * 30)


@pytest.mark.parametrize("make_rule", [AdamRule, LBFGSRule, CourseRule])
def test_the_picture_before_the_first_step_is_the_start(make_rule):
    start = picture().clamp(-1.4, 1.4)
    torch.testing.assert_close(make_rule(start, 40).picture(0).detach(), start)


@pytest.mark.parametrize("size", [(8, 12), (7, 12), (8, 11), (9, 9)])
@pytest.mark.parametrize("make_rule", [AdamRule, LBFGSRule])
def test_any_size_of_picture(make_rule, size):
    start = torch.rand(1, 3, *size)
    assert make_rule(start, 10).picture(0).shape == start.shape


@pytest.mark.parametrize("name", RULES)
def test_every_rule_reaches_a_picture(name):
    """Its squared distance from a target shrinks to a fraction, in the rule's own number of
    steps.
    """
    make_rule, count = RULES[name]
    target, start = 0.5 * picture(1).clamp(-2, 2), picture(0).clamp(-1.4, 1.4)
    rule = make_rule(start, count)
    for t in range(count):
        seen = rule.picture(t)
        step(rule, t, (seen - target).square().sum())
    assert (rule.picture(count) - target).square().sum() < 0.02 * (start - target).square().sum()


def test_the_script_offers_every_rule():
    assert set(style_transfer.OPTIMIZERS) == RULES.keys()
    assert style_transfer.OPTIMIZERS[0] == next(iter(RULES)) == "course"


HALVES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("make", [AdamRule, LBFGSRule, CourseRule])
def test_rules_step_on_pictures_of_half_precision(make, dtype):
    start = torch.rand(1, 3, 20, 31, generator=torch.Generator().manual_seed(0)).to(dtype)
    rule = make(start, 30)
    assert rule.picture(0).dtype == dtype
    assert torch.allclose(rule.picture(0).float(), start.float(), atol=1e-2)
    with torch.enable_grad():
        content = rule.picture(0).float().square().sum()
        content.backward()
        rule.optimizer(0).step(content.item)
    assert rule.picture(1).isfinite().all() and not torch.equal(rule.picture(1), start)
