"""Evaluations that a GPU replays: to launch small kernels takes longer than to run them."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from .evaluation import Flag, pending_flags

# Whose modules do the same in every evaluation; of others only their authors know.
KNOWN = ("torch.nn.", "torchvision.", "style_modules.")
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def replayed(
    evaluate: Callable[..., tuple[torch.Tensor, ...]],
    examples: Sequence[torch.Tensor],
    modules: Sequence[nn.Module],
) -> Callable[..., tuple[torch.Tensor, ...]]:
    """Return a function that gives what `evaluate` gives, gradients included.

    On a CUDA GPU it is recorded once, as CUDA graphs, and replayed.

    Args:
        evaluate: function of tensors; what it does beside launching kernels is done when it is
            recorded, and not again.
        examples: tensors of the shapes, types and device that all later ones have; those require
            gradients that later ones do.
        modules: the networks and losses that it calls.

    Returns:
        The function, whose results are overwritten by its next call. `evaluate` itself on other
        devices, where a module may do something else each time, and where no recording succeeds.
    """
    device = examples[0].device
    if device.type != "cuda" or not all(is_steady(module) for module in modules):
        return evaluate
    flags: list[Flag] = []

    def recorded(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Evaluate, and keep the flags, whose tensors each replay sets anew."""
        pending = pending_flags()
        count = len(pending)
        results = evaluate(*inputs)
        flags[:] = pending[count:]
        del pending[count:]
        return results

    given = tuple(each.detach().clone().requires_grad_(each.requires_grad) for each in examples)
    try:
        with torch.cuda.device(device), warnings.catch_warnings():
            # Of streams that do not match: torch's own, between its warm-up and its recording
            warnings.filterwarnings("ignore", "The AccumulateGrad node's stream", UserWarning)
            with _no_waiting():  # after a recording that failed, CUDA's random numbers would raise
                recorded(*given)
            graphed: Any = torch.cuda.make_graphed_callables(recorded, given)
        if not agree(evaluate, graphed, given):
            return evaluate
    except RuntimeError:
        return evaluate

    def replay(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        results = graphed(*inputs)
        pending_flags().extend(flags)
        return results

    replay.__wrapped__ = evaluate  # type: ignore[attr-defined] # a replay reads its tensors' memory
    return replay


def is_steady(module: nn.Module) -> bool:
    """Return True if a module is made of known ones alone, without hooks."""
    return all(
        f"{type(part).__module__}.".startswith(KNOWN)
        and "forward" not in vars(part)
        and not any(getattr(part, hooks) for hooks in HOOKS)
        for part in module.modules()
    )


def agree(
    one: Callable[..., tuple[torch.Tensor, ...]],
    other: Callable[..., tuple[torch.Tensor, ...]],
    examples: Sequence[torch.Tensor],
) -> bool:
    """Return True if two functions give the same results and gradients, rounding apart.

    They are evaluated on 0.9 times the examples: a recording that reads no new inputs fails, too.
    """
    outcomes = []
    for function in (one, other):
        inputs = [0.9 * each if each.is_floating_point() else each for each in examples]
        inputs = [each.detach().clone() for each in inputs]
        wanted = [
            new.requires_grad_()
            for new, each in zip(inputs, examples, strict=True)
            if each.requires_grad
        ]
        results = function(*inputs)
        totals = [result.sum() for result in results if result.requires_grad]
        gradients = torch.autograd.grad(totals, wanted) if wanted else ()
        outcomes.append([each.detach().clone() for each in (*results, *gradients)])
    # A network whose kernels add in an order left to chance is as good a one: not to the last bit
    return all(
        bool((a - b).abs().max() <= 1e-3 * a.abs().max()) if a.is_floating_point() else a.equal(b)
        for a, b in zip(*outcomes, strict=True)
    )


@contextlib.contextmanager
def _no_waiting() -> Iterator[None]:
    """Raise a RuntimeError where something waits for the GPU, which cannot be recorded."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the mode is said not to find everything
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)
