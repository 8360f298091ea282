"""Which ReLUs and other activations lie on the way from an image to the scores."""

import math
from collections import Counter

import torch
from torch import nn
from torch.autograd.graph import Node

from errors import InputError

from .common import check_images, evaluated, graph_nodes
from .evaluation import evaluation_mode
from .layers import check_visible

# Nodes of the graph that stand for whole parts of a network: torch.compile's, TorchScript's.
OPAQUE_NODES = ("CompiledFunctionBackward", "DifferentiableGraphBackward")
UNGUIDED = {  # node of the graph → activation that guided backprop has no rule for
    "GeluBackward0": "GELU",
    "SiluBackward0": "SiLU",
    "HardswishBackward0": "Hardswish",
    "EluBackward0": "ELU",
    "LeakyReluBackward0": "LeakyReLU",
    "PreluKernelBackward0": "PReLU",
    "MishBackward0": "Mish",
    "SoftplusBackward0": "Softplus",
}


def count_relus(model: nn.Module, images: torch.Tensor) -> tuple[int, int]:
    """Count a network's ReLUs by evaluating it on the first of some images (N, 3, H, W).

    Returns:
        How many follow the guided rule here, and how many of them are `nn.ReLU` modules, which is
        all that libraries working with hooks on modules, such as Captum, can see. Of ReLUs in gates
        alone the first is 0: there the rule changes next to nothing.

    Raises:
        InputError: as `GradCam.guided_backprop`, except that there may be no ReLU.
    """
    check_visible(model)
    modules = []
    handles = [
        module.register_forward_hook(lambda module, *_: modules.append(module))
        for module in model.modules()
        if isinstance(module, nn.ReLU)
    ]
    try:
        with evaluation_mode(model):
            score = evaluated(model, check_images(images, model)[:1].requires_grad_()).sum()
            nodes, direct = relu_nodes(score), graph_nodes(score, is_gate)
    finally:
        for handle in handles:
            handle.remove()
    return len(nodes) if set(nodes) & set(direct) else 0, len(modules)


def unguided(model: nn.Module, images: torch.Tensor) -> dict[str, int]:
    """Count the activations that guided backprop passes by the plain gradient, gates apart.

    The network is evaluated on the first of the images (N, 3, H, W).
    """
    check_visible(model)
    with evaluation_mode(model):
        score = evaluated(model, check_images(images, model)[:1].requires_grad_()).sum()
        names = [UNGUIDED.get(node.name()) for node in graph_nodes(score, is_gate)]
    return dict(Counter(name for name in names if name))


def is_gate(node: Node, source: Node, number: int) -> bool:
    """Return True if a source of a node is a gate: it is multiplied with a larger tensor.

    As in squeeze-and-excitation.
    """
    if node.name() != "MulBackward0":
        return False
    sizes = node._input_metadata[0].shape, source._input_metadata[number].shape
    product, factor = map(math.prod, sizes)
    return factor < product


def relu_nodes(score: torch.Tensor) -> list[Node]:
    """Return the nodes of the ReLUs, ReLU6 included, in the graph that a score comes from."""
    return [node for node in graph_nodes(score) if _is_relu(node)]


def _is_relu(node: Node) -> bool:
    name = node.name()
    if name.endswith(OPAQUE_NODES):
        raise InputError(
            "a part of the network is compiled or TorchScript, which hides its ReLUs; give the "
            "original"
        )
    return name in ("ReluBackward0", "CustomReLUBackward") or (
        name == "HardtanhBackward0" and getattr(node, "_saved_min_val", None) == 0  # ReLU6
    )
