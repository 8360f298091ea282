"""How class scores (N, classes) are read from what a network gives."""

import dataclasses
from collections.abc import Mapping

import torch
from torch import nn

from errors import InputError

from .trial import PICTURES, Trial

NAMES = ("logits", "out", "main")  # of scores among other outputs
# Nodes of the graph that change no numbers
VIEWS = {
    f"{name}Backward{version}"
    for name in (
        "View",
        "UnsafeView",
        "Reshape",
        "Squeeze",
        "Unsqueeze",
        "Clone",
        "Select",
        "Alias",
    )
    for version in (0, 1)
} | {"ReshapeAliasBackward0"}
SQUASHES = {"SigmoidBackward0": "sigmoid", "SoftmaxBackward0": "softmax"}
LEAST = 1e-7  # a probability below it, or as near to 1, counts as this


@dataclasses.dataclass(frozen=True)
class Reading:
    """How scores are read."""

    entry: str = ""  # of several outputs: a key, a field's name, or a number
    binary: bool = False  # one logit s: the scores are −s and s
    squash: str = ""  # built in at the end and taken back: the scores are the logits again
    probability: str = "softmax"  # or "sigmoid": how probabilities follow from the scores

    @property
    def is_plain(self) -> bool:
        """Whether the scores are what the network gives."""
        return not (self.entry or self.binary or self.squash)

    def __call__(self, output: object) -> object:
        """Turn what a network gives into scores (N, classes); what does not fit stays as it is."""
        scores = entries(output).get(self.entry, output)
        if not isinstance(scores, torch.Tensor):
            return scores
        if self.squash == "softmax":
            scores = scores.clamp_min(LEAST).log()
        elif self.squash == "sigmoid":
            scores = scores.logit(LEAST)
        if self.binary:
            column = scores.reshape(-1, 1)
            return torch.cat([-column, column], dim=1)
        return scores

    @property
    def note(self) -> str:
        """What a figure says of it: nothing where it is the course's."""
        if self == Reading():
            return ""
        parts = [
            f"output {self.entry}" if self.entry else "",
            "one logit, scores −s and s" if self.binary else "",
            f"{self.squash} built in, taken back" if self.squash else "",
            f"probability by the {self.probability}",
        ]
        return ", ".join(part for part in parts if part)


def find_reading(trial: Trial, key: str | None, sigmoid: bool, name: object) -> Reading:
    """Find out how scores are read, by an evaluation of the network.

    A squash that is a module at the network's end is left out from now on; of one that is a
    function the inverse is taken.

    Args:
        trial: the evaluation.
        key: the output with the scores; None: the one that fits.
        sigmoid: whether the classes do not exclude one another.
        name: the network's, for the error.

    Raises:
        InputError: several outputs could be the scores, or none goes by the key.
    """
    if trial.output is None:  # it has failed, or was not evaluated
        return Reading(key or "", probability="sigmoid" if sigmoid else "softmax")
    entry = _entry(entries(trial.output), key, name)
    scores = entries(trial.output).get(entry, trial.output)
    if not _fits(scores):
        return Reading(entry, probability="sigmoid" if sigmoid else "softmax")
    assert isinstance(scores, torch.Tensor)
    binary = scores.dim() == 1 or scores.shape[1] == 1
    node = _last_node(scores)
    squash = SQUASHES.get(node.name(), "") if node is not None else ""
    probability = "sigmoid" if sigmoid or binary or squash == "sigmoid" else "softmax"
    module = trial.made.get(node) if node is not None else None
    if isinstance(module, (nn.Sigmoid, nn.Softmax)) and trial.finished.count(module) == 1:
        module.register_forward_hook(lambda _, inputs, __: inputs[0])
        squash = ""
    return Reading(entry, binary, squash, probability)


def entries(output: object) -> dict[str, object]:
    """Return the outputs of a network that gives several, by key, field or number."""
    if isinstance(output, Mapping):
        pairs = list(output.items())
    elif dataclasses.is_dataclass(output):
        pairs = [(each.name, getattr(output, each.name)) for each in dataclasses.fields(output)]
    elif isinstance(output, (tuple, list)):
        pairs = list(zip(getattr(output, "_fields", range(len(output))), output, strict=True))
    else:
        pairs = []
    return {str(key): value for key, value in pairs}


def _entry(outputs: Mapping[str, object], key: str | None, name: object) -> str:
    """Return the key of the scores among several outputs; of a single one an empty key."""
    if key is not None and key not in outputs:
        there = f"its outputs are {', '.join(outputs)}" if outputs else "it gives a single tensor"
        raise InputError(f"--output {key}: the network {name} gives no such output; {there}")
    fitting = [each for each, value in outputs.items() if _fits(value)]
    named = [each for each in NAMES if each in fitting]
    if key is None and not named and len(fitting) > 1:
        raise InputError(
            f"the network {name} gives several outputs that could be scores: "
            f"{', '.join(fitting)}; choose one by --output"
        )
    return key if key is not None else (*named, *fitting, "")[0]


def _fits(value: object) -> bool:
    """Whether an output could be the scores, (N,) or (N, classes)."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return False
    return value.dim() in (1, 2) and len(value) == PICTURES


def _last_node(scores: torch.Tensor) -> torch.autograd.graph.Node | None:
    """Return the last operation that scores went through, views apart."""
    node = scores.grad_fn
    while node is not None and node.name() in VIEWS:
        node = node.next_functions[0][0]
    return node
