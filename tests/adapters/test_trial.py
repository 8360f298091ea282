"""What one evaluation shows of a network, which it leaves as it was."""

import pytest
import torch
from helpers import network_state, same_state
from networks import small_network
from torch import nn

from adapters.trial import PICTURES, try_out


def test_what_an_evaluation_shows():
    model = small_network()
    before, random = network_state(model), torch.get_rng_state()
    trial = try_out(model, 16)
    assert trial.output.shape == (PICTURES, 5) and trial.channels == (3, 3)
    assert trial.finished == [*model, model]
    assert [*trial.made.values()] == [*model]  # the innermost module: the whole gives the last's
    assert same_state(before, network_state(model)) and torch.equal(random, torch.get_rng_state())


@pytest.mark.parametrize("grad", [torch.no_grad, torch.inference_mode])
def test_a_graph_is_there_whatever_the_caller_has_set(grad):
    model = small_network()
    with grad():
        assert try_out(model, 16).made


def test_a_network_that_fails_shows_what_it_was_given():
    model = nn.Sequential(nn.ReLU(), nn.Conv2d(1, 4, 3))
    before = network_state(model)
    trial = try_out(model, 16)
    assert trial.output is None and trial.channels == (1, 3) and trial.finished == [model[0]]
    assert same_state(before, network_state(model))
