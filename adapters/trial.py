"""One evaluation of a network on grey pictures, and what it shows of the network."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import nn

PICTURES = 2  # of one, "(N,)" and "(classes,)" would look alike


@dataclass
class Trial:
    """What an evaluation has shown."""

    output: object = None  # None: it failed
    finished: list[nn.Module] = field(default_factory=list)  # in this order
    # Node of the graph → the innermost module whose output it is
    made: dict[torch.autograd.graph.Node, nn.Module] = field(default_factory=dict)
    # Of the first convolution: the channels that it takes, and those that it is given
    channels: tuple[int, int] | None = None


def try_out(model: nn.Module, size: int, more: Iterable[nn.Module] = ()) -> Trial:
    """Evaluate a network on pictures of `size`, with a graph; a fault is left to who uses it.

    Args:
        model: the network, in eval mode.
        size: height and width in pixels.
        more: modules that may be evaluated though they are no submodules.
    """
    trial = Trial()

    def before(module: nn.Module, inputs: tuple) -> None:
        if trial.channels is None and isinstance(module, nn.Conv2d):
            trial.channels = module.in_channels, inputs[0].shape[-3]

    def after(module: nn.Module, _: tuple, output: object) -> None:
        trial.finished.append(module)
        if isinstance(output, torch.Tensor) and output.grad_fn is not None:
            trial.made.setdefault(output.grad_fn, module)

    modules = dict.fromkeys((*model.modules(), *more))
    if any(isinstance(module, torch.jit.ScriptModule) for module in modules):  # they take no hooks
        modules = {}
    handles = [module.register_forward_pre_hook(before) for module in modules]
    handles += [module.register_forward_hook(after) for module in modules]
    device = next(model.parameters(), torch.empty(0)).device
    image = torch.zeros(PICTURES, 3, size, size, device=device, requires_grad=True)
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            trial.output = model(image.clone())
    # It is told of, with picture and cause, where photos are evaluated
    except (Exception, SystemExit):
        pass
    finally:
        for handle in handles:
            handle.remove()
    return trial
