"""What the techniques share: checked inputs, deterministic evaluation, the score that is differentiated."""

import math
import operator
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from file_utils import InputError

CHUNK = 8  # photos that go through a network together: memory stays flat, and to several threads more is no help

_lock = threading.Lock()
_evaluated = {}  # network in use → [users, modules that were in train mode]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluate a network deterministically: no dropout, batch norm by its running statistics; restored afterwards.

    Several threads may be inside with one network; the last one out restores the modes.
    """
    with _lock:
        entry = _evaluated.setdefault(model, [0, []])
        if entry[0] == 0:
            entry[1] = [module for module in model.modules() if module.training]
            for module in entry[1]:
                module.training = False
        entry[0] += 1
    try:
        yield
    finally:
        with _lock:
            entry[0] -= 1
            if entry[0] == 0:
                for module in entry[1]:
                    module.training = True
                del _evaluated[model]


def check_images(X: torch.Tensor, model: nn.Module, name: str = "X") -> torch.Tensor:
    """The images, on the network's device and in its dtype.

    Raises:
        ValueError: not a float tensor (N, 3, H, W) of finite numbers with H, W ≥ 1, or `model` is no network.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(X, torch.Tensor) or not X.is_floating_point():
        got = f"a tensor of {X.dtype}" if isinstance(X, torch.Tensor) else type(X).__name__
        raise ValueError(f"{name} must be a float tensor (N, 3, H, W), got {got}")
    if X.dim() != 4 or X.shape[1] != 3 or 0 in X.shape[2:]:
        raise ValueError(f"{name} must have shape (N, 3, H, W), got {tuple(X.shape)}")
    if not _finite(X):
        raise ValueError(f"{name} has values that are not finite (NaN or infinity)")
    parameter = next(model.parameters(), X)
    return X.detach().to(device=parameter.device, dtype=parameter.dtype)


def check_labels(y: torch.Tensor, X: torch.Tensor, name: str = "y") -> torch.Tensor:
    """The labels, as int64 on the images' device.

    Raises:
        ValueError: not an integer tensor (N,), one label per image.
    """
    if not isinstance(y, torch.Tensor) or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        got = f"a tensor of {y.dtype}" if isinstance(y, torch.Tensor) else type(y).__name__
        raise ValueError(f"{name} must be an integer tensor (N,), got {got}")
    if y.shape != X.shape[:1]:
        raise ValueError(f"{name} must hold one label for each of the {len(X)} images, got shape {tuple(y.shape)}")
    return y.to(device=X.device, dtype=torch.int64)


def chunks(X: torch.Tensor, y: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images (N, 3, H, W) and labels (N,) in equal parts that are evaluated together; of no images, none."""
    # In one thread, PyTorch's 1×1 convolutions take a better way from 16 images on: the pass is a quarter faster.
    least = 2 * CHUNK if torch.get_num_threads() == 1 else CHUNK
    count = len(X) // least
    if count < 2:
        return [(X, y)] if len(X) else []
    return list(zip(X.tensor_split(count), y.tensor_split(count), strict=True))


def labelled_scores(scores: torch.Tensor, y: torch.Tensor, name: str = "y") -> torch.Tensor:
    """The raw score (logit) of each image's class: (N, classes) and (N,) → (N,).

    Raises:
        ValueError: the network gives no (N, classes) tensor, or a label is out of range.
        InputError: its scores are not finite.
    """
    if not isinstance(scores, torch.Tensor) or scores.dim() != 2:
        got = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise ValueError(f"model must give scores of shape (N, classes), got {got}")
    ids = y.tolist()
    if ids and not 0 <= min(ids) <= max(ids) < scores.shape[1]:
        raise ValueError(f"{name} must lie in 0…{scores.shape[1] - 1}, got {min(ids)}…{max(ids)}")
    if not _finite(scores):
        raise InputError("the network's scores are not finite (NaN or infinity): its weights are damaged")
    return scores.gather(1, y[:, None])[:, 0]


def _finite(values: torch.Tensor) -> bool:
    # NaN and infinity do not get lost in a sum, which is forty times as fast as a look at each value.
    return math.isfinite(values.sum().item()) or bool(values.isfinite().all())


def integer(value: int, name: str, least: int = 0) -> int:
    """An integer of any kind (Python's, numpy's, a tensor's) as an int.

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
    """A finite number greater than zero, as a float.

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
    """Each image's gradient divided by its L2 norm, (N, C, H, W); a zero gradient stays zero.

    Raises:
        ValueError: a norm that is not finite.
    """
    norm = torch.linalg.vector_norm(gradient, dim=(1, 2, 3), keepdim=True)
    if not norm.isfinite().all():
        raise ValueError("the gradient is not finite (NaN or infinity): damaged weights, or numbers too large")
    return gradient / torch.where(norm > 0, norm, 1)
