"""How class scores are read from what networks give."""

import collections
import dataclasses

import pytest
import torch
from networks import small_network
from torch import nn

from adapters.outputs import Reading, find_reading
from adapters.trial import PICTURES, try_out
from errors import InputError
from visualizers.common import probabilities

Two = collections.namedtuple("Two", ("logits", "aux_logits"))


@dataclasses.dataclass
class Result:
    loss: torch.Tensor
    scores: torch.Tensor
    states: torch.Tensor


class Ends(nn.Module):
    """A small network with another end."""

    def __init__(self, end):
        super().__init__()
        self.body, self.end = small_network(), end

    def forward(self, x):
        return self.end(self.body(x))


ENDS = {  # end → reading, and the scores that are read
    "plain": (lambda s: s, Reading()),
    "one of two plain": (lambda s: {"a": s, "b": "text"}, Reading("a")),
    "(N,)": (lambda s: s[:, 0], Reading(binary=True, probability="sigmoid")),
    "(N, 1)": (lambda s: s[:, :1], Reading(binary=True, probability="sigmoid")),
    "tuple": (lambda s: (s, s[:, None]), Reading("0")),
    "list": (lambda s: [s[:, None], s], Reading("1")),
    "dictionary": (lambda s: {"boxes": s[:, None], "classes": s}, Reading("classes")),
    "preferred": (lambda s: {"features": s * 2, "out": s, "aux": s + 1}, Reading("out")),
    "named tuple": (lambda s: Two(s, s + 1), Reading("logits")),
    "dataclass": (lambda s: Result(s.sum(), s, s[:, None]), Reading("scores")),
    "softmax": (lambda s: s.softmax(dim=1), Reading(squash="softmax")),
    "sigmoid": (lambda s: s.sigmoid(), Reading(squash="sigmoid", probability="sigmoid")),
    "sigmoid of one": (
        lambda s: {"out": s[:, 0].sigmoid()},
        Reading("out", True, "sigmoid", "sigmoid"),
    ),
    "module of softmax": (nn.Softmax(dim=1), Reading()),
    "module of sigmoid": (nn.Sigmoid(), Reading(probability="sigmoid")),
    "log-softmax": (nn.LogSoftmax(dim=1), Reading()),
}


@pytest.mark.parametrize("name", ENDS)
def test_scores_and_what_they_mean(name):
    end, expected = ENDS[name]
    network, images = Ends(end).eval(), torch.randn(3, 3, 16, 16)
    logits, before = network.body(images), network(images)
    reading = find_reading(try_out(network, 16), None, False, "a")
    assert reading == expected
    scores, network.score_reading = reading(network(images)), reading
    if reading.binary:
        assert torch.allclose(scores, torch.stack([-logits[:, 0], logits[:, 0]], dim=1), atol=1e-5)
        assert torch.allclose(
            probabilities(network, scores)[:, 1], logits[:, 0].sigmoid(), atol=1e-6
        )
    else:
        chances = probabilities(network, scores)
        squashed = "sigmoid" in name or "softmax" in name
        meant = before.exp() if name == "log-softmax" else before
        assert torch.allclose(chances, meant if squashed else logits.softmax(dim=1), atol=1e-6)
        # Logits again, but for what the softmax takes from all of them
        difference = scores - logits
        assert torch.allclose(difference, difference[:, :1].expand(-1, 5), atol=1e-4)


def test_several_outputs_are_named_and_chosen():
    network = Ends(lambda s: {"a": s, "b": -s, "c": s[:, None]}).eval()
    trial = try_out(network, 16)
    with pytest.raises(InputError, match=r"network x gives several .*: a, b; .*--output"):
        find_reading(trial, None, False, "x")
    assert find_reading(trial, "b", True, "x") == Reading("b", probability="sigmoid")
    with pytest.raises(InputError, match=r"--output d.*a, b, c"):
        find_reading(trial, "d", False, "x")
    with pytest.raises(InputError, match=r"--output 0.*single tensor"):
        find_reading(try_out(small_network(), 16), "0", False, "x")


def test_a_gate_s_sigmoid_stays():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.gate = small_network(), nn.Sigmoid()

        def forward(self, x):
            s = self.body(x)
            return self.gate(self.gate(s) * s)

    network, images = Gated().eval(), torch.randn(2, 3, 16, 16)
    before = network(images)
    reading = find_reading(try_out(network, 16), None, False, "a")
    assert reading.squash == "sigmoid"  # by its inverse, since the module is also a gate
    assert torch.equal(network(images), before)


def test_a_network_that_fails_or_gives_nothing_is_left_to_who_evaluates_it():
    network = Ends(lambda s: s[:, None, None]).eval()
    assert find_reading(try_out(network, 16), None, False, "a") == Reading()
    failing = try_out(nn.Linear(7, 2), 16)
    assert failing.output is None and find_reading(failing, None, False, "a") == Reading()
    assert PICTURES > 1
