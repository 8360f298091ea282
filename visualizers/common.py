"""What the techniques share: checked inputs, deterministic evaluation, and the score that is differentiated."""

import contextlib
import copy
import math
import operator
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision.models import SqueezeNet

from errors import InputError

DAMAGED = "the network's scores are not finite (NaN or infinity): its weights are damaged"
NOT_FINITE = "the gradient is not finite (NaN or infinity): damaged weights, or numbers too large"
CHUNK = 8  # images that go through a network together: more cost memory, and gain no speed on several threads

Labels = torch.Tensor | np.ndarray | Sequence[int] | int  # class ids
# A method of explanation: model, images (N, 3, H, W), labels (N,) → maps (N, H, W).
Method = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor | np.ndarray]

_one_at_a_time = threading.RLock()


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluate a network deterministically, with gradients: no dropout, batch norm by its running statistics.

    Also where the caller has switched to inference mode; a compiled network is evaluated as it was written, since
    compiled code hides layers, hooks and ReLUs. The modes are restored afterwards. Threads take turns, since the modes
    and hooks of a network are shared by all.
    """
    with _one_at_a_time, torch.compiler.set_stance("force_eager"), torch.inference_mode(False), torch.enable_grad():
        training = [module for module in model.modules() if module.training]
        for module in training:
            module.training = False
        try:
            yield
        finally:
            for module in training:
                module.training = True


def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy of a network.

    What is computed before each evaluation (the weight of a `weight_norm` or `spectral_norm` by hooks) still hangs on
    its graph, with which Python copies no tensor; the copy has it without.
    """
    computed = [
        value
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, torch.Tensor) and not value.is_leaf
    ]
    return copy.deepcopy(model, {id(tensor): tensor.detach().clone() for tensor in computed})


def in_chunks(compute: Callable[..., tuple[torch.Tensor, ...]], *batches: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return what `compute(*batches)` returns, computed a few images at a time so that memory stays flat."""
    # In one thread, PyTorch's 1×1 convolutions take a quicker way from 16 images on.
    count = len(batches[0]) // (CHUNK if torch.get_num_threads() > 1 else 2 * CHUNK)
    if count < 2:
        return compute(*batches)
    parts = [compute(*part) for part in zip(*(batch.tensor_split(count) for batch in batches), strict=True)]
    return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))


# --- The score ---


def evaluated(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Evaluate a network on a copy of the images, which it may alter: (N, 3, H, W) → finite scores (N, classes).

    Raises:
        InputError: the network gives something else, or what no gradient can be taken of.
    """
    scores = model(images.clone())
    if not isinstance(scores, torch.Tensor) or scores.dim() != 2:
        got = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise InputError(f"model must give scores of shape (N, classes), got {got}")
    if images.requires_grad and torch.is_grad_enabled() and not scores.requires_grad:
        raise InputError("model gives scores without a gradient: it detaches them, or runs under torch.no_grad()")
    if not scores.isfinite().all():
        raise InputError(DAMAGED)
    return scores


def class_scores(model: nn.Module, images: torch.Tensor, y: torch.Tensor, name: str = "y") -> torch.Tensor:
    """Evaluate a network and return the raw score (logit) s_y of each image's class: (N, 3, H, W) and (N,) → (N,).

    SqueezeNet's classifier is a 1×1 convolution with one channel per class, ReLU and mean: a quarter of its time. Only
    the labelled channels are evaluated, unless a hook or a compiler may want to see them all.

    Raises:
        InputError: the network gives no (N, classes) tensor of finite scores, or has no such class.
    """
    if not _has_plain_classifier(model):
        return labelled_scores(evaluated(model, images), y, name)
    features, convolution = model.features(images), model.classifier[1]
    _check_range(y, convolution.out_channels, name)
    maps = (features * convolution.weight[y]).sum(dim=1) + convolution.bias[y, None, None]  # quicker than an einsum
    scores = maps.relu().mean(dim=(1, 2))
    if not scores.isfinite().all():
        raise InputError(DAMAGED)
    return scores


def labelled_scores(scores: torch.Tensor, y: torch.Tensor, name: str = "y") -> torch.Tensor:
    """Return the raw score of each image's class from all scores: (N, classes) and (N,) → (N,).

    Raises:
        InputError: the network has no such class.
    """
    _check_range(y, scores.shape[1], name)
    return scores.gather(1, y[:, None])[:, 0]


def _has_plain_classifier(model: nn.Module) -> bool:
    """Whether this is torchvision's SqueezeNet as it comes: nobody hooks, alters or compiles its classifier."""
    if type(model) is not SqueezeNet or "forward" in vars(model) or len(list(model.classifier.children())) != 4:
        return False
    classifier: Any = model.classifier
    modules = [model, classifier, *classifier]
    kinds = (nn.Dropout, nn.Conv2d, nn.ReLU, nn.AdaptiveAvgPool2d)
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_compiled_call_impl")
    return (
        all(type(module) is kind for module, kind in zip(classifier, kinds, strict=True))
        and classifier[1].kernel_size == (1, 1)
        and not any(getattr(module, hook) for module in modules for hook in hooks)
    )


def _check_range(y: torch.Tensor, classes: int, name: str) -> None:
    ids = y.tolist()
    if ids and not 0 <= min(ids) <= max(ids) < classes:
        raise InputError(f"{name} must lie in 0…{classes - 1}, got {min(ids)}…{max(ids)}")


def graph_nodes(tensor: torch.Tensor) -> list[torch.autograd.graph.Node]:
    """Return the nodes of the graph that a tensor comes from."""
    found: dict[torch.autograd.graph.Node, None] = {}  # in the order in which they are met
    waiting = [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found[node] = None
            waiting += [source for source, _ in node.next_functions]
    return list(found)


def finite(gradient: torch.Tensor) -> torch.Tensor:
    """Return a gradient, or what was computed from it, of any shape.

    Raises:
        InputError: it is not finite.
    """
    if not is_finite(gradient):
        raise InputError(NOT_FINITE)
    return gradient


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether all numbers are finite, and so small that their sum is: it tells as much, in a fiftieth of the time."""
    return bool(at_least_float32(tensor).sum().isfinite())


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor, of half precision in float32: it would overflow in sums, and has no bicubic enlargement."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def figures():
    """Return the module that draws, for the two methods that the course has write figures; nothing else needs it."""
    import figure_utils

    return figure_utils


# --- Arguments ---


def check_model(model: nn.Module) -> None:
    """Raise an error for what no gradient can be taken through.

    Raises:
        ValueError: `model` is not a torch module.
        InputError: it is quantised, or was made in inference mode.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if any(".quantized" in type(module).__module__ for module in model.modules()):
        raise InputError("the network is quantised, so it has no gradients; give the float network it was made from")
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise InputError("the network was made under torch.inference_mode(), so it has no gradients; make it outside")


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor without its graph; one made in inference mode is copied, as autograd takes it for no input."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def check_images(X: torch.Tensor, model: nn.Module, name: str = "X") -> torch.Tensor:
    """Return the images on the network's device and in its dtype.

    Raises:
        ValueError: not a float tensor (N, 3, H, W) of finite numbers with H, W ≥ 1, or as `check_model`.
    """
    check_model(model)
    if not isinstance(X, torch.Tensor) or not X.is_floating_point():
        got = f"a tensor of {X.dtype}" if isinstance(X, torch.Tensor) else type(X).__name__
        raise ValueError(f"{name} must be a float tensor (N, 3, H, W), got {got}")
    if X.dim() != 4 or X.shape[1] != 3 or 0 in X.shape[2:]:
        raise ValueError(f"{name} must have shape (N, 3, H, W), got {tuple(X.shape)}")
    if not is_finite(X):
        raise ValueError(f"{name} has values that are not finite (NaN or infinity)")
    like = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), X)
    with torch.inference_mode(False):
        return _plain(X).to(device=like.device, dtype=like.dtype)


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
        raise ValueError(f"{name} must hold one label for each of the {len(X)} images, got shape {tuple(labels.shape)}")
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
    if not norm.isfinite().all():
        raise InputError(NOT_FINITE)
    return gradient / torch.where(norm > 0, norm, 1)
