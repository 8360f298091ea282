"""Two strips of pictures: what each layer knows of the content, and what each set of layers knows of the style."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import nn

from cli.session import Session
from cli.style_presets import INVERSION, Preset, presets
from cli.style_weights import with_proportions_of
from errors import InputError
from style_utils import feature_layers, style_transfer

NOISES = 2  # starts of each inversion: what differs between them, the layer does not know


def make_strips(
    session: Session,
    preset: Preset,
    layers: tuple[int, ...],
    pictures: Mapping[Path, Image],
    losses: tuple[nn.Module, nn.Module, nn.Module],
) -> None:
    """Write content_layers.png, the content inverted from each of several layers and from two noises, and
    style_layers.png, the style's texture by one layer, two layers, and so on.

    Args:
        preset: the pictures, sizes and the weights for SqueezeNet.
        layers: the network's style layers.

    Raises:
        InputError: there is no content picture.
    """
    if preset.content is None:
        raise InputError("--only layers: the strips need a content picture")
    names = list(feature_layers(session.model))
    deep = [*layers, len(names) - 1]
    sets = [layers[: number + 1] for number in range(len(layers))]
    content: Any = pictures[preset.content]
    style: Any = pictures[preset.styles[0]]
    with session.progress(description="strips", total=NOISES * len(deep) + len(sets)) as bar:

        def paint(setting: Preset, seed: int) -> torch.Tensor:
            arguments: list[Any] = [setting.name, None if setting.content is None else content, style]
            arguments += [setting.image_size, setting.style_size, setting.content_layer, setting.content_weight]
            arguments += [setting.style_layers, setting.style_weights, setting.tv_weight, *losses]
            kwargs: dict[str, Any] = {
                "optimizer": session.options.optimizer,
                "num_iterations": session.options.iterations,
            }
            kwargs |= {"init_random": True, "testing": True, "seed": seed}
            image = style_transfer(*[*arguments, session.model, session.device], **kwargs)
            bar.update()
            assert image is not None
            return image

        inversions = [inversion(preset, layer, session.model, session.device) for layer in deep]
        rows = []
        for number in range(NOISES):
            images: list[Any] = [paint(setting, session.options.seed + number) for setting in inversions]
            rows.append((f"noise {number + 1}", [session.tile(picture, (256, 192)) for picture in (content, *images)]))
        titles = ["content", *(f"layer {names[layer]}" for layer in deep)]
        session.save_rows("content_layers.png", rows, titles, "The content by one layer alone")
        textures = [
            paint(texture(preset, chosen, session.model, session.device), session.options.seed) for chosen in sets
        ]
    tiles = [session.tile(picture, (256, 256)) for picture in (style, *textures)]
    titles = ["style", *("layers " + ", ".join(names[layer] for layer in chosen) for chosen in sets)]
    session.save_rows("style_layers.png", [("", tiles)], titles, "The style by more and more layers")


def inversion(preset: Preset, layer: int, cnn: nn.Module, device: torch.device) -> Preset:
    """Return the course's feature inversion at another layer, whose content loss is made as large."""
    course = next(each for each in presets() if each.name == INVERSION)
    course = dataclasses.replace(course, content=preset.content, styles=preset.styles, image_size=preset.image_size)
    made = dataclasses.replace(course, content_layer=layer)
    return with_proportions_of(course, made, [0] * len(made.style_layers), cnn, device)


def texture(preset: Preset, layers: tuple[int, ...], cnn: nn.Module, device: torch.device) -> Preset:
    """Return a texture of the preset's style by these layers, each of equal weight."""
    made = dataclasses.replace(preset, content=None, style_layers=layers)
    return with_proportions_of(preset, made, [1] * len(layers), cnn, device)
