"""The layers and weights of style transfer, by network: the presets' are SqueezeNet's."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torchvision.models import SqueezeNet

from cli.style_presets import CONTENT_LAYER, STYLE_LAYERS, Preset, given
from errors import InputError, quoted
from model_utils import load_model
from style_modules import ContentLoss, StyleLoss
from style_modules.network_layers import default_layers
from style_utils import extract_features, feature_layers, features_from_img, first_layers

FIT_SIZE = 192  # pixels: the size at which terms are compared


def fitted(
    preset: Preset, options: argparse.Namespace, cnn: nn.Module, device: torch.device
) -> Preset:
    """Return a preset with the layers and weights that the options and the network ask for."""
    content, style = _layers(options, cnn, device)
    weights = given(options, "style_weights")
    if weights is not None and len(weights) != len(style):
        numbers = ", ".join(map(str, style))
        raise InputError(
            f"--style-weights: {len(weights)} weights for {len(style)} style layers ({numbers})"
        )
    changes: dict[str, Any] = {"content_layer": content, "style_layers": style}
    for key in ("content_weight", "tv_weight"):
        if (value := given(options, key)) is not None:
            changes[key] = value
    absolute = isinstance(cnn, SqueezeNet)
    if weights is not None and absolute:
        changes["style_weights"] = tuple(weights)
    made = dataclasses.replace(preset, **changes)
    if not absolute or (weights is None and style != preset.style_layers):
        made = with_proportions_of(preset, made, weights or [1] * len(style), cnn, device)
    factor = given(options, "style_scale")
    scaled = (
        made.style_weights
        if factor is None
        else tuple(factor * weight for weight in made.style_weights)
    )
    return dataclasses.replace(made, style_weights=scaled)


def _layers(
    options: argparse.Namespace, cnn: nn.Module, device: torch.device
) -> tuple[int, tuple[int, ...]]:
    """Return the content layer and the style layers: those named, else the network's own."""
    layers = feature_layers(cnn)
    text, texts = given(options, "content_layer"), given(options, "style_layers")
    content: int = 0
    style: tuple[int, ...] = ()
    if text is None or texts is None:
        try:
            every = first_layers(cnn, len(layers))
            image = every.photo_preparation(torch.zeros(1, 3, 224, 224, device=device))
            content, style = default_layers(cnn, list(every), image)
        except ValueError as error:
            message = f"{error}; name layers with --content-layer and --style-layers"
            raise InputError(message) from error
    if text is not None:
        content = _number_of(text, "--content-layer", list(layers))
    if texts is not None:
        style = tuple(_number_of(each, "--style-layers", list(layers)) for each in texts)
    return content, style


def _number_of(text: str, option: str, names: list[str]) -> int:
    """Return the number of a layer given by number or name."""
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    there = f"0 to {len(names) - 1}"
    if names != [str(i) for i in range(len(names))]:
        there += f", or {', '.join(names)}"
    raise InputError(f"{option}: no layer {quoted(text)}; there are {there}")


def with_proportions_of(
    preset: Preset, made: Preset, weights: Sequence[float], cnn: nn.Module, device: torch.device
) -> Preset:
    """Return `made` with weights that make its terms as large as the preset's are for SqueezeNet.

    Compared are, at 192 pixels, the content loss against a black picture and the style loss of the
    content picture; the style loss is divided among the layers as `weights` says.
    """
    squeezenet = load_model(weights="bundled", device=device)
    content, style = _terms(preset, squeezenet, CONTENT_LAYER, STYLE_LAYERS, device)
    whole = sum(weight * term for weight, term in zip(preset.style_weights, style, strict=True))
    own_content, own_style = _terms(preset, cnn, made.content_layer, made.style_layers, device)
    total = sum(weights) or 1
    style_weights = [
        weight / total * whole / (term or 1)
        for weight, term in zip(weights, own_style, strict=True)
    ]
    content_weight = made.content_weight * content / (own_content or 1)
    rounded = tuple(float(f"{weight:.4g}") for weight in (content_weight, *style_weights))
    return dataclasses.replace(made, content_weight=rounded[0], style_weights=rounded[1:])


def _terms(
    preset: Preset,
    cnn: nn.Module,
    content_layer: int,
    style_layers: tuple[int, ...],
    device: torch.device,
) -> tuple[float, list[float]]:
    """Return content loss against black and style loss by layer, with weights of 1."""
    last = max(content_layer, *style_layers)
    layers = first_layers(cnn, last + 1)
    feats, image = features_from_img(preset.content or preset.styles[0], FIT_SIZE, layers, device)
    style, _ = features_from_img(preset.styles[0], FIT_SIZE, layers, device)
    black, gram = extract_features(0 * image, layers), StyleLoss().gram_matrix
    if preset.content is None:
        feats = black
    content = ContentLoss()(
        1, feats[content_layer] if preset.content else style[content_layer], black[content_layer]
    )
    return content.item(), [
        (gram(feats[k]) - gram(style[k])).square().sum().item() for k in style_layers
    ]
