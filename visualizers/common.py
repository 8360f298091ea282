"""What the techniques share: checked inputs, and the score that is differentiated."""

import math
import operator
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from torch.autograd.graph import Node

from errors import InputError
from image_utils import memory_format

from .evaluation import refuse_unless
from .squeezenet_score import has_plain_classifier, squeezenet_score

DAMAGED = "the network's scores are not finite (NaN or infinity): its weights are damaged"
NOT_FINITE = "the gradient is not finite (NaN or infinity): damaged weights, or numbers too large"

Labels = torch.Tensor | np.ndarray | Sequence[int] | int  # class ids
# A method of explanation: model, images (N, 3, H, W), labels (N,) → maps (N, H, W).
Method = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor | np.ndarray]

# --- The score ---


def evaluated(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Evaluate a network on a copy of images (N, 3, H, W): finite scores (N, classes).

    Raises:
        InputError: the network gives something else, or what no gradient can be taken of.
    """
    scores = model(images.clone())
    if not isinstance(scores, torch.Tensor) or scores.dim() != 2:
        got = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise InputError(f"model must give scores of shape (N, classes), got {got}")
    if images.requires_grad and torch.is_grad_enabled() and not scores.requires_grad:
        raise InputError(
            "model gives scores without a gradient: it detaches them, or runs under torch.no_grad()"
        )
    refuse_unless(scores.isfinite().all(), lambda: InputError(DAMAGED))
    return scores


def class_scores(
    model: nn.Module, images: torch.Tensor, y: torch.Tensor, name: str = "y"
) -> torch.Tensor:
    """Evaluate a network: each image's score s_y of its class, (N, 3, H, W), (N,) → (N,).

    Of SqueezeNet's classifier only the labelled channels are evaluated, see `squeezenet_score`.

    Raises:
        InputError: the network gives no (N, classes) tensor of finite scores, or has no such class.
    """
    if not has_plain_classifier(model):
        return labelled_scores(evaluated(model, images), y, name)
    y = _in_range(y, model.classifier[1].out_channels, name)
    scores = squeezenet_score(model, images, y)
    refuse_unless(scores.isfinite().all(), lambda: InputError(DAMAGED))
    return scores


def labelled_scores(scores: torch.Tensor, y: torch.Tensor, name: str = "y") -> torch.Tensor:
    """Return the raw score of each image's class from all scores: (N, classes) and (N,) → (N,).

    Raises:
        InputError: the network has no such class.
    """
    y = _in_range(y, scores.shape[1], name)
    return scores.gather(1, y[:, None])[:, 0]


def probabilities(model: nn.Module, scores: torch.Tensor) -> torch.Tensor:
    """Return the probabilities that a network means by its scores, both (N, classes).

    The softmax; the sigmoid where classes do not exclude one another, or there is one logit s,
    scored −s and s.
    """
    reading = getattr(model, "score_reading", None)  # of a network by `model_utils.load_model`
    if getattr(reading, "probability", "softmax") == "sigmoid":
        return scores.sigmoid()
    return scores.softmax(dim=1)


def _in_range(y: torch.Tensor, classes: int, name: str) -> torch.Tensor:
    """Return labels that are safe as an index: on a GPU a wrong one would end the process."""
    safe = y.clamp(0, classes - 1) if y.is_cuda else y
    refuse_unless(
        ((y >= 0) & (y < classes)).all(), lambda: _out_of_range(y.tolist(), classes, name)
    )
    return safe


def _out_of_range(ids: list[int], classes: int, name: str) -> InputError:
    return InputError(f"{name} must lie in 0…{classes - 1}, got {min(ids)}…{max(ids)}")


def graph_nodes(
    tensor: torch.Tensor, leave_out: Callable[[Node, Node, int], bool] | None = None
) -> list[Node]:
    """Return the nodes of the graph that a tensor comes from.

    `leave_out(node, source, number)` says of which sources not: of `node`, the output `number` of
    `source`.
    """
    nodes: dict[Node, None] = {}  # in the order in which they are met
    waiting = [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in nodes:
            nodes[node] = None
            waiting += [
                source
                for source, number in node.next_functions
                if source is not None and not (leave_out and leave_out(node, source, number))
            ]
    return list(nodes)


def finite(gradient: torch.Tensor) -> torch.Tensor:
    """Return a gradient, or what was computed from it, of any shape.

    Raises:
        InputError: it is not finite.
    """
    refuse_unless(at_least_float32(gradient).sum().isfinite(), lambda: InputError(NOT_FINITE))
    return gradient


def is_finite(tensor: torch.Tensor) -> bool:
    """Return True if all values are finite.

    Only their sum is tested, which is 50 times faster; a sum that overflows counts as not finite.
    """
    return bool(at_least_float32(tensor).sum().isfinite())


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor, half precision as float32: half overflows in sums and cannot be resized."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def figures():
    """Return the module that draws, for the two methods that the course has write figures.

    Raises:
        InputError: `visualizers/` has been copied without it.
    """
    try:
        import figure_utils
    except ModuleNotFoundError as error:
        if error.name not in ("figure_utils", "files"):
            raise
        raise InputError(
            "drawing needs figure_utils.py and files/ beside visualizers/: copy them as well"
        ) from None
    return figure_utils


# --- Arguments ---


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor without its graph; one of inference mode is copied, for autograd."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def check_images(X: torch.Tensor, model: nn.Module, name: str = "X") -> torch.Tensor:
    """Return the images on the network's device and in its dtype.

    Raises:
        ValueError: not a float tensor (N, 3, H, W) of finite numbers with H, W ≥ 1.
    """
    if not isinstance(X, torch.Tensor) or not X.is_floating_point():
        got = f"a tensor of {X.dtype}" if isinstance(X, torch.Tensor) else type(X).__name__
        raise ValueError(f"{name} must be a float tensor (N, 3, H, W), got {got}")
    if X.dim() != 4 or X.shape[1] != 3 or 0 in X.shape[2:]:
        raise ValueError(f"{name} must have shape (N, 3, H, W), got {tuple(X.shape)}")
    refuse_unless(
        at_least_float32(X).sum().isfinite(),
        lambda: ValueError(f"{name} has values that are not finite (NaN or infinity)"),
    )
    like = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), X)
    layout = memory_format(like.device) if like.is_cuda else torch.preserve_format
    with torch.inference_mode(False):
        return _plain(X).to(device=like.device, dtype=like.dtype, memory_format=layout)


def check_labels(y: Labels, X: torch.Tensor, name: str = "y") -> torch.Tensor:
    """Return the labels as int64 on the images' device.

    Args:
        y: (N,) integers in a tensor, array, list or tuple; or one integer for all images.
        X: the images (N, 3, H, W).
        name: the argument's name.

    Raises:
        ValueError: no integers, or not one label per image.
    """
    try:
        labels = torch.as_tensor(y)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} must hold integers, got {type(y).__name__}") from None
    integers = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if not integers and labels.numel():  # an empty list is of floats
        raise ValueError(f"{name} must hold integers, got {labels.dtype}")
    if labels.dim() and labels.shape != X.shape[:1]:
        raise ValueError(
            f"{name} must hold one label for each of the {len(X)} images, got shape "
            f"{tuple(labels.shape)}"
        )
    with torch.inference_mode(False):
        return _plain(labels).to(device=X.device, dtype=torch.int64).expand(len(X))


def integer(value: int, name: str, least: int = 0) -> int:
    """Return an integer of any kind (Python's, numpy's, a tensor's) as an int.

    Raises:
        ValueError: not an integer, or less than `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be an integer, got {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def positive(value: float, name: str) -> float:
    """Return a finite number greater than zero as a float.

    Raises:
        ValueError: anything else.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number, got {value!r}") from None
    if not 0 < number < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {number}")
    return number


def unit_length(gradient: torch.Tensor) -> torch.Tensor:
    """Divide each image's gradient (N, C, H, W) by its L2 norm; a zero gradient stays zero.

    Raises:
        InputError: a norm that is not finite.
    """
    norm = torch.linalg.vector_norm(gradient, dim=(1, 2, 3), keepdim=True)
    refuse_unless(norm.isfinite().all(), lambda: InputError(NOT_FINITE))
    return gradient / torch.where(norm > 0, norm, 1)
