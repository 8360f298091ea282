"""Captum's attributions: computed in chunks, drawn under the photos."""

import contextlib
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum import attr
from torch import nn

from figure_utils import Drawn, class_title, draw_rows, heat, provenance, save_png, show_inline
from visualizers.evaluation import CHUNK, full_precision
from visualizers.layers import Layer

__all__ = [
    "attribution",
    "attribution_row",
    "compute_attributions",
    "occlusion_windows",
    "visualize_attr_maps",
]

# Of occlusion, as shares of a photo's short side: 25 cover a square photo
SQUARE, STRIDE = 64 / 224, 40 / 224


def _to_hwc(attribution: torch.Tensor) -> np.ndarray:
    """(C, H, W) tensor → (H, W, C) array."""
    return attribution.permute(1, 2, 0).detach().cpu().numpy()


def compute_attributions(algo, inputs: torch.Tensor, **kwargs):
    """Return `algo.attribute(inputs, **kwargs)`, computed in pieces so that memory stays flat.

    On a CPU the images go through in chunks; an algorithm that works in steps (integrated
    gradients, conductance) gets them one by one and its steps in batches: all at once, five photos
    and 50 steps take 6 GB and over twice the time. One that changes images (occlusion) has up to
    eight changed images evaluated together. On a GPU all images go through at once, with ten times
    as many steps or changed images, in smaller chunks where its memory does not hold them; what
    `kwargs` says of steps and changes wins. Computed in full float32, as the techniques are.

    Args:
        algo: a captum attribution algorithm that treats each image on its own.
        inputs: (N, …) tensor.
        kwargs: for `attribute`; tensors and lists of length N among them, also within tuples such
            as `additional_forward_args`, are cut along with the inputs.

    Returns:
        The attributions, detached, in captum's shape: (N, …), or a tuple of such tensors.

    Raises:
        ValueError: `inputs` is not a tensor, or holds no image.
    """
    if not isinstance(inputs, torch.Tensor) or not len(inputs):
        got = tuple(inputs.shape) if isinstance(inputs, torch.Tensor) else type(inputs).__name__
        raise ValueError(f"inputs must be a tensor (N, …) of at least one image, got {got}")
    parameters = inspect.signature(algo.attribute).parameters
    stepwise = "internal_batch_size" in parameters
    count, size = len(inputs), len(inputs) if inputs.is_cuda else 1 if stepwise else CHUNK
    if "target" in kwargs:
        kwargs["target"] = _target(kwargs["target"], count)
    parts: list = []
    start = 0
    while start < count:
        chunk = slice(start, start + size)
        cut = {name: _cut(value, chunk, count) for name, value in kwargs.items()}
        for name, value in _at_once(inputs[chunk]).items():
            if name in parameters:
                cut.setdefault(name, value)
        # Input methods need `requires_grad` (else Captum sets it on the caller's tensor, with a
        # warning). Layer methods do not, and are much smaller without it.
        part = inputs[chunk].detach().requires_grad_(not isinstance(algo, attr.LayerAttribution))
        with (
            warnings.catch_warnings(),
            full_precision(),
            contextlib.suppress(torch.OutOfMemoryError),
        ):
            warnings.filterwarnings("ignore", "Setting (forward, )?backward hooks", UserWarning)
            parts.append(algo.attribute(part, **cut))
            start += size
            continue
        if size == 1:
            raise torch.OutOfMemoryError("the GPU's memory does not hold one image")
        size = -(-size // 2)  # the exception, which held the tensors, is gone
    if isinstance(parts[0], tuple):
        return tuple(torch.cat([part[i] for part in parts]).detach() for i in range(len(parts[0])))
    return torch.cat(parts).detach()


def attribution(
    algorithm: type, model: nn.Module, layer: Layer | None = None, **kwargs
) -> Callable:
    """Return a function of images (N, 3, H, W) and labels (N,) that runs an algorithm of Captum's.

    Args:
        algorithm: a class of `captum.attr`, made of the network and, with `layer`, a module.
        model: the network.
        layer: for algorithms that look into one.
        kwargs: for the algorithm's `attribute`, beside the labels as its target.
    """

    def technique(images: torch.Tensor, labels: torch.Tensor):
        with layer.as_maps(images) if layer else contextlib.nullcontext() as module:
            algo = algorithm(model, module) if layer else algorithm(model)
            target = (
                {"target": labels}
                if "target" in inspect.signature(algo.attribute).parameters
                else {}
            )
            return compute_attributions(algo, images, **target, **kwargs)

    return technique


def occlusion_windows(photo: np.ndarray | torch.Tensor, stride: float = STRIDE) -> dict[str, Any]:
    """Return size and strides of the squares of `attr.Occlusion` for a photo (H, W, 3).

    Args:
        photo: its short side is what they are shares of.
        stride: as a share.
    """
    side = min(photo.shape[:2])
    square, step = (max(1, round(share * side)) for share in (SQUARE, stride))
    return {"sliding_window_shapes": (3, square, square), "strides": (3, step, step)}


def _at_once(images: torch.Tensor) -> dict[str, int]:
    """Return how much of its work on some images Captum does together: of steps, of changes."""
    steps, changed = (50, 80) if images.is_cuda else (5, 8)  # 5: conductance adds an end point
    count = len(images)
    return {
        "internal_batch_size": steps * count,
        "perturbations_per_eval": max(1, changed // count),
    }


def _target(target, count: int):
    """Return class ids as Captum takes them: a tensor, of one for all images or (N,)."""
    one_each = isinstance(target, list | tuple) and len(target) == count
    if one_each and all(isinstance(label, int | np.integer | torch.Tensor) for label in target):
        target = torch.as_tensor(target)
    if isinstance(target, np.ndarray | np.integer | torch.Tensor):
        return torch.as_tensor(target).to(torch.int64)
    return target  # None, or an index into scores of more dimensions


def _cut(value, chunk: slice, count: int):
    """Cut an argument, or parts of a tuple, along with the images if it has an entry for each."""
    if isinstance(value, tuple):
        return tuple(_cut(part, chunk, count) for part in value)
    one_each = isinstance(value, list) or (isinstance(value, torch.Tensor) and value.dim() > 0)
    return value[chunk] if count > 1 and one_each and len(value) == count else value


def visualize_attr_maps(
    path: str | Path,
    X: np.ndarray,
    y: Sequence[int],
    class_names: Mapping[int, str],
    attributions: Sequence[torch.Tensor],
    titles: Sequence[str],
    attr_preprocess: Callable[[torch.Tensor], np.ndarray] = _to_hwc,
    cmap: str = "viridis",
    alpha: float = 0.7,
) -> Drawn:
    """Draw photos over a row of maps for each attribution, save the figure and return it.

    Each map is shown as (a − mean) / std · 0.2 + 0.5, clipped to [0, 1].

    Args:
        path: the PNG to write; its folder is made when missing.
        X: uint8 (N, H, W, 3), RGB photos.
        y: (N,) class ids.
        class_names: class id → name.
        attributions: each (N, C, h, w); maps of another size are enlarged to the photos' (nearest
            neighbour).
        titles: of the rows, one per attribution.
        attr_preprocess: one image's attribution (C, h, w) → array (h, w), (h, w, 1) or (h, w, 3).
        cmap: matplotlib colour map for maps of one channel.
        alpha: opacity of the maps on white.

    Returns:
        The figure, with the methods savefig, show, close and clf of pyplot.

    Raises:
        ValueError: no photo, lengths that do not fit one another, values that are not finite, or an
            unknown `cmap`.
        InputError: the figure cannot be written.
    """
    if len(attributions) != len(titles):
        raise ValueError(
            f"titles must name each of the {len(attributions)} attributions, got {len(titles)}"
        )
    if any(len(a) != len(X) for a in attributions) or len(y) != len(X):
        raise ValueError(f"y and attributions must hold one entry for each of the {len(X)} photos")
    if not len(X):
        raise ValueError("X must hold at least one photo, got none")
    rows = [("photo", list(X))]
    for title, attribution in zip(titles, attributions, strict=True):
        rows.append(attribution_row(title, attribution, X, attr_preprocess, cmap, alpha))
    names = [class_title(class_names, label) for label in y]
    picture = draw_rows(rows, names)
    save_png(picture, path, provenance())
    show_inline(picture)
    return Drawn(picture)


def attribution_row(
    title: str,
    attribution: torch.Tensor | Sequence[torch.Tensor],
    X: np.ndarray | Sequence[np.ndarray],
    attr_preprocess: Callable[[torch.Tensor], np.ndarray] = _to_hwc,
    cmap: str = "viridis",
    alpha: float = 0.7,
) -> tuple[str, list[np.ndarray]]:
    """Return a row of `visualize_attr_maps` for `draw_rows`: title and a tile per photo."""
    return title, [
        _tile(attr_preprocess(a), cmap, alpha, x.shape[:2])
        for a, x in zip(attribution, X, strict=True)
    ]


def _tile(values: np.ndarray, cmap: str, alpha: float, size: tuple[int, int]) -> np.ndarray:
    """Colour a map on white: uint8 (H, W, 3) of the given size."""
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("attributions have values that are not finite (NaN or infinity)")
    values = ((values - values.mean()) / max(values.std(), 1e-20) * 0.2 + 0.5).clip(0, 1)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    colours = (
        heat(values, cmap, normalize=False)
        if values.ndim == 2
        else (255 * values).round().astype(np.uint8)
    )
    rows, columns = (
        np.arange(side) * have // side for side, have in zip(size, colours.shape[:2], strict=True)
    )
    return (alpha * colours[rows][:, columns] + (1 - alpha) * 255).round().astype(np.uint8)
