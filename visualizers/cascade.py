"""Cascading randomisation: a network's layers lose their training, the last ones first."""

import functools
import inspect
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from .common import check_images
from .evaluation import copied, evaluation_mode

SCALE = 0.02  # standard deviation with which ViT, Swin and BERT draw what has no rule of its own
POWER_ITERATIONS = 15  # as `spectral_norm` takes when it is put on a layer
CHAINS = (nn.ModuleList, nn.ModuleDict)


def cascade(model: nn.Module, images: torch.Tensor, seed: int) -> Iterator[tuple[str, nn.Module]]:
    """Yield a network's copy with one layer more made random each time, from the output backwards.

    Adebayo et al.: Sanity Checks for Saliency Maps, 2018, §3.1, "cascading randomization". The copy
    is scored before a ReLU at its end (`without_last_relu`): behind it random scores are 0 for half
    of the classes, with maps of zeros.

    Args:
        model: left as it was.
        images: float (N, 3, H, W), normalised; the first shows the order of evaluation.
        seed: of the random parameters; torch's random state stays as it was.

    Yields:
        The layer's dotted name, as in `parameter_layers`, and the copy, which is the same object
        each time.
    """
    untrained = reinitialised(model, seed).state_dict()
    network = without_last_relu(model, images)
    values = network.state_dict()  # they share the copy's memory
    for layer in parameter_layers(model):
        with torch.no_grad():
            for name, value in values.items():
                if name == layer or name.startswith(f"{layer}."):
                    value.copy_(untrained[name])
        yield layer, network


# --- Which layers ---


def parameter_layers(model: nn.Module) -> list[str]:
    """Return the names of what is made random at once, from the output backwards.

    That is each block or layer with parameters: chains (`nn.Sequential`, `nn.ModuleList`,
    `nn.ModuleDict`) are taken apart, and modules that hold a chain of blocks, as a transformer's
    encoder. What such a module has of its own, as position embeddings, is a layer before its
    blocks.
    """

    def parts(prefix: str, module: nn.Module) -> Iterator[str]:
        yield from (prefix + name for name, _ in module.named_parameters(recurse=False))
        for name, child in module.named_children():
            if _is_chain(child) or any(map(_is_chain_of_blocks, child.modules())):
                yield from parts(f"{prefix}{name}.", child)
            elif any(True for _ in child.parameters()):
                yield prefix + name

    return list(parts("", model))[::-1]


def _is_chain(module: nn.Module) -> bool:
    return type(module) is nn.Sequential or isinstance(module, CHAINS)


def _is_chain_of_blocks(module: nn.Module) -> bool:
    """Return True if a chain repeats a kind of module whose parts have parts in turn."""
    blocks = [type(child) for child in module.children() if any(map(_has_parts, child.children()))]
    return _is_chain(module) and len(set(blocks)) < len(blocks)


def _has_parts(module: nn.Module) -> bool:
    return any(True for _ in module.children())


# --- Parameters as before a training ---


def reinitialised(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy of a network with parameters and running statistics as before its training.

    Modules with `reset_parameters` draw theirs, the weights below a `weight_norm` or
    `spectral_norm` included. Others get the number that a constructor has as the default of an
    argument with their name (ConvNeXt's layer_scale: 1e-6); else a bias gets 0, a vector named
    weight (of a norm) 1, and what is left (class tokens, position embeddings) normal numbers with a
    standard deviation of 0.02. Torch's random state stays as it was.
    """
    network = copied(model)
    trained = dict(model.named_parameters())
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        # Parts before the whole
        drawn = [module for module in reversed(list(network.modules())) if _reset(module)]
        own = {id(parameter) for module in drawn for parameter in _parameters_of(module)}
        for name, parameter in network.named_parameters():
            constant = parameter.numel() > 0 and bool((parameter == parameter.flatten()[0]).all())
            if torch.equal(parameter, trained[name]) and not (id(parameter) in own and constant):
                _draw(network, name, parameter)
    return network


def _parameters_of(module: nn.Module) -> list[nn.Parameter]:
    computed = getattr(module, "parametrizations", nn.Module())
    return [*module.parameters(recurse=False), *computed.parameters()]


def _reset(module: nn.Module) -> bool:
    """Draw a module's own parameters as its constructor does; return whether it knows how."""
    reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    if reset is None:
        return False
    with parametrize.cached():
        reset()
        computed = {
            name: getattr(module, name).clone() for name in getattr(module, "parametrizations", ())
        }
    for name, weight in computed.items():
        setattr(module, name, weight)
    if computed:
        _settle(module, lambda: [getattr(module, name) for name in computed])
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            weight = getattr(module, hook.name)
            getattr(module, f"{hook.name}_v").copy_(weight)
            getattr(module, f"{hook.name}_g").copy_(torch.norm_except_dim(weight, 2, hook.dim))
        elif isinstance(hook, SpectralNorm):
            getattr(module, f"{hook.name}_orig").copy_(getattr(module, hook.name))
            _settle(module, functools.partial(hook, module, ()))
    return True


def _settle(module: nn.Module, compute: Callable[[], object]) -> None:
    """Compute a weight in training mode, where a spectral norm converges step by step."""
    modes = {part: part.training for part in module.modules()}
    module.train()
    for _ in range(POWER_ITERATIONS):
        compute()
    for part, training in modes.items():
        part.training = training


def _draw(network: nn.Module, name: str, parameter: nn.Parameter) -> None:
    *path, leaf = name.split(".")
    holders = [network.get_submodule(".".join(path[:depth])) for depth in range(len(path), -1, -1)]
    arguments = [inspect.signature(type(module)).parameters.get(leaf) for module in holders]
    defaults = [
        each.default
        for each in arguments
        if each is not None and type(each.default) in (int, float)
    ]
    if defaults:
        parameter.fill_(defaults[0])
    elif leaf == "bias" or (leaf == "weight" and parameter.dim() == 1):
        parameter.fill_(leaf == "weight")
    else:
        parameter.normal_(std=SCALE)


# --- The score ---


def without_last_relu(model: nn.Module, images: torch.Tensor) -> nn.Module:
    """Return a copy of a network without the ReLUs that follow its last parameters."""
    network, calls = copied(model), []
    handles = [
        module.register_forward_hook(lambda module, *_: calls.append(module))
        for module in network.modules()
    ]
    try:
        with evaluation_mode(network), torch.no_grad():
            network(check_images(images, network)[:1].clone())
    finally:
        for handle in handles:
            handle.remove()
    with_parameters = [bool(list(module.parameters(recurse=False))) for module in calls]
    last = [module for i, module in enumerate(calls) if not any(with_parameters[i:])]
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.ReLU) and module in last and calls.count(module) == 1:
            network.set_submodule(name, nn.Identity())
    return network
