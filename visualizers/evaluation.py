"""Evaluate networks deterministically, in full precision, in chunks, and leave them unchanged."""

import contextlib
import copy
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from errors import InputError

# Images that go through a network together: more cost memory, and gain no speed on several threads
CHUNK = 8

_one_at_a_time = threading.RLock()
# A 0-dim bool tensor, and the error unless it is set
Flag = tuple[torch.Tensor, Callable[[], Exception]]


class _Pending(threading.local):
    """The flags that this thread has yet to read; None outside `evaluation_mode`."""

    flags: list[Flag] | None = None


_pending = _Pending()


@contextlib.contextmanager
def evaluation_mode(model: nn.Module, one_image: bool = False) -> Iterator[None]:
    """Evaluate a network deterministically, with gradients: no dropout, fixed batch norm.

    Also where the caller has switched to inference mode; a compiled network is evaluated as it was
    written, since compiled code hides layers, hooks and ReLUs. The modes are restored afterwards.
    Threads take turns, since the modes and hooks of a network are shared by all. A GPU computes in
    full float32, the same each time, and its flags are read at the end; `one_image` as in
    `full_precision`.

    Raises:
        ValueError, InputError: as `check_model`.
    """
    modules = check_model(model)
    with (
        _one_at_a_time,
        torch.compiler.set_stance("force_eager"),
        torch.inference_mode(False),
        torch.enable_grad(),
        full_precision(one_image),
        _flags_read_at_the_end(),
    ):
        training = [module for module in modules if module.training]
        for module in training:
            module.training = False
        try:
            yield
        finally:
            for module in training:
                module.training = True


def check_model(model: nn.Module) -> list[nn.Module]:
    """Check that gradients can be taken through a network, and return its modules.

    Raises:
        ValueError: `model` is not a torch module.
        InputError: it is quantised, or was made in inference mode.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    modules = list(model.modules())  # once, as it takes longer than a kernel's launch
    for module in modules:
        if ".quantized" in type(module).__module__:
            raise InputError(
                "the network is quantised, so it has no gradients; give the float network it was "
                "made from"
            )
        if any(each is not None and each.is_inference() for each in module._parameters.values()):
            raise InputError(
                "the network was made under torch.inference_mode(), so it has no gradients; make "
                "it outside"
            )
    return modules


def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy of a network.

    `deepcopy` refuses non-leaf tensors, such as the weight that `weight_norm` or `spectral_norm`
    compute in a hook; they are detached in the copy.
    """
    computed = [
        value
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, torch.Tensor) and not value.is_leaf
    ]
    return copy.deepcopy(model, {id(tensor): tensor.detach().clone() for tensor in computed})


def in_chunks(
    compute: Callable[..., tuple[torch.Tensor, ...]], *batches: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Return `compute(*batches)`, on a CPU for a few images at a time, so that memory stays flat.

    On a GPU for all images at once, in halves where its memory does not hold them.
    """
    if batches[0].is_cuda:
        return at_once(compute, *batches)
    # In one thread, PyTorch's 1×1 convolutions take a quicker way from 16 images on.
    count = len(batches[0]) // (CHUNK if torch.get_num_threads() > 1 else 2 * CHUNK)
    if count < 2:
        return compute(*batches)
    parts = [
        compute(*part)
        for part in zip(*(batch.tensor_split(count) for batch in batches), strict=True)
    ]
    return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))


def at_once(
    compute: Callable[..., tuple[torch.Tensor, ...]], *batches: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Return `compute(*batches)`, of halves of the images where memory does not hold all."""
    pending = pending_flags()
    count = len(pending)
    try:
        return compute(*batches)
    except torch.OutOfMemoryError:
        if len(batches[0]) < 2:
            raise
    del pending[count:]  # here, not in the except block, whose exception still holds the tensors
    halves = zip(*(batch.tensor_split(2) for batch in batches), strict=True)
    parts = [at_once(compute, *half) for half in halves]
    return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))


def to_cpu(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor on the CPU.

    A GPU copies into page-locked memory. Torch keeps that for the next copy, which then takes a
    fortieth of the time.
    """
    if not tensor.is_cuda:
        return tensor.cpu()
    copy = tensor.to("cpu", non_blocking=True)
    torch.cuda.current_stream(tensor.device).synchronize()
    return copy


@contextlib.contextmanager
def full_precision(one_image: bool = False) -> Iterator[None]:
    """Compute in full float32 on a GPU, and the same bits each time; restore the settings.

    By default cuDNN rounds a convolution's input to 10 bits (TF32), by which single values of a map
    differ from the CPU's by a tenth of the largest, and adds in an order left to chance.

    Args:
        one_image: batches hold one image. Torch's own convolutions are quicker then than cuDNN's
            and take a tenth of the memory (VGG-19 at 1024 pixels 6 GB instead of 69).
    """
    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
    settings: list[tuple[Any, str, Any]]
    # Since torch 2.9; who has set one operator there can no longer read the old flags
    if hasattr(cudnn, "conv"):
        settings = [(cudnn.conv, "fp32_precision", "ieee"), (cuda.matmul, "fp32_precision", "ieee")]
    else:
        settings = [(cudnn, "allow_tf32", False), (cuda.matmul, "allow_tf32", False)]
    settings += [(cudnn, "deterministic", True)] + [(cudnn, "enabled", False)] * one_image
    before = [getattr(owner, name) for owner, name, _ in settings]
    try:
        for owner, name, value in settings:
            setattr(owner, name, value)
        yield
    finally:
        for (owner, name, _), value in zip(settings, before, strict=True):
            setattr(owner, name, value)


# --- Checks that do not wait for a GPU ---


def pending_flags() -> list[Flag]:
    """Return the flags to be read; new ones are appended inside `evaluation_mode` only."""
    return [] if _pending.flags is None else _pending.flags


def refuse_unless(flag: torch.Tensor, error: Callable[[], Exception]) -> None:
    """Raise an error unless a flag, a 0-dim bool tensor, is set.

    At once on a CPU. A GPU's numbers would have to be waited for: there when `read_flags` is
    called, at the latest at the end of `evaluation_mode`.
    """
    if flag.is_cuda and _pending.flags is not None:
        _pending.flags.append((flag, error))
    elif not flag:
        raise error()


def read_flags(*numbers: torch.Tensor) -> list[float]:
    """Read all flags together, and raise the error of the first that is not set.

    Args:
        numbers: further 0-dim tensors of the same device, to be read along.

    Returns:
        Their values.
    """
    pending = pending_flags()
    tensors = [*(flag for flag, _ in pending), *(number.detach() for number in numbers)]
    if not tensors:
        return []
    values = torch.stack(tensors).tolist()
    errors = [error for _, error in pending]
    pending.clear()
    for value, error in zip(values, errors, strict=False):
        if not value:
            raise error()
    return values[len(errors) :]


@contextlib.contextmanager
def _flags_read_at_the_end() -> Iterator[None]:
    outer = _pending.flags
    _pending.flags = [] if outer is None else outer
    try:
        yield
        read_flags()
    finally:
        pending_flags().clear()
        _pending.flags = outer
