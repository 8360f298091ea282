"""The pictures of style transfer: one painted coarse to fine, and two strips that show what each
layer knows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import nn

from cli.session import Session
from cli.style_presets import INVERSION, Preset, given, presets
from cli.style_weights import with_proportions_of
from errors import InputError, quoted
from figure_utils import draw_losses, tile
from style_modules.scales import scale_sizes, steps_by_scale
from style_utils import ITERATIONS, StyleTransferProgress, feature_layers, style_transfer

NOISES = 2  # starts of each inversion: what differs between them, the layer does not know


def make(
    session: Session,
    preset: Preset,
    pictures: Mapping[Path, Image],
    losses: tuple[nn.Module, nn.Module, nn.Module],
) -> tuple[list[tuple[float, ...]], torch.Tensor]:
    """Make one picture, coarse to fine. Returns the terms before and after each step (content,
    style, total variation, total, style by layer), and the picture (1, 3, H, W).

    Raises:
        KeyboardInterrupt: Ctrl-C; the picture reached by then is written, and the message says so.
    """
    options, folder = session.options, session.folder("styles_images")
    count = options.iterations or ITERATIONS[options.optimizer]
    sizes = scale_sizes(preset.image_size, given(options, "scales") or 1)
    steps = steps_by_scale(count, len(sizes))
    curve: list[tuple[float, ...]] = []
    last: list[StyleTransferProgress] = []

    def report(progress: StyleTransferProgress) -> None:
        last[:] = [progress]
        terms = (progress.content, progress.style, progress.total_variation, progress.total)
        curve.append((*terms, *progress.style_by_layer))
        if progress.iteration:
            bar.update()
        if options.save_every and progress.iteration % options.save_every == 0:
            number = len(curve) - 1
            session.save_image(progress.image, f"{preset.name}_{number:04}.png", folder)

    kwargs: dict[str, Any] = {"optimizer": options.optimizer, "callback": report, "output": folder}
    kwargs |= {
        "seed": options.seed,
        "preserve_color": options.preserve_color,
        "style_shares": preset.shares,
    }
    kwargs |= {"masks": preset.masks and [pictures[path] for path in preset.masks]}
    kwargs["notes"] = session.provenance(iterations=count, pictures=preset.description())
    content = None if preset.content is None else pictures[preset.content]
    weights = (
        preset.content_layer,
        preset.content_weight,
        preset.style_layers,
        preset.style_weights,
        preset.tv_weight,
    )
    with session.progress(description=preset.name, total=sum(steps)) as bar:
        try:
            for size, number in zip(sizes, steps, strict=True):
                side = max(32, preset.style_size * size // preset.image_size)
                start = last[0].image if last else None
                style_transfer(
                    *(
                        preset.name,
                        content,
                        [pictures[path] for path in preset.styles],
                        size,
                        side,
                        *weights,
                    ),
                    *(*losses, session.model, session.device, preset.init_random),
                    **(kwargs | {"num_iterations": number, "start": start}),
                )
        except InputError as error:
            raise InputError(f"{preset.name}: {error}") from error
        except KeyboardInterrupt:
            written = (
                f"; {quoted(f'{preset.name}.png')} is the picture reached by then" if last else ""
            )
            raise KeyboardInterrupt(
                f"interrupted after {max(0, len(curve) - 1)} steps{written}"
            ) from None
    return curve, last[0].image


def save_losses(
    session: Session,
    chosen: Sequence[Preset],
    curves: Mapping[str, Sequence[tuple[float, ...]]],
    **facts,
) -> None:
    """Write style_losses.png: the terms over the steps, the style term also by layer."""
    by_layer = {
        preset.name: [
            f"style, layer {layer}"
            for layer, weight in zip(preset.style_layers, preset.style_weights, strict=True)
            if weight
        ]
        for preset in chosen
    }
    session.save(draw_losses(curves, by_layer), "style_losses.png", **facts)


def make_strips(
    session: Session,
    preset: Preset,
    layers: tuple[int, ...],
    pictures: Mapping[Path, Image],
    losses: tuple[nn.Module, nn.Module, nn.Module],
) -> None:
    """Write content_layers.png, the content inverted from each of several layers and from two
    noises, and style_layers.png, the style's texture by one layer, two layers, and so on.

    Args:
        preset: the pictures, sizes and the weights for SqueezeNet.
        layers: the network's style layers.
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
            arguments: list[Any] = [
                setting.name,
                None if setting.content is None else content,
                style,
            ]
            arguments += [
                setting.image_size,
                setting.style_size,
                setting.content_layer,
                setting.content_weight,
            ]
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
            images: list[Any] = [
                paint(setting, session.options.seed + number) for setting in inversions
            ]
            rows.append(
                (
                    f"noise {number + 1}",
                    [tile(picture, (256, 192)) for picture in (content, *images)],
                )
            )
        titles = ["content", *(f"layer {names[layer]}" for layer in deep)]
        session.save_rows("content_layers.png", rows, titles, "The content by one layer alone")
        textures = [
            paint(texture(preset, chosen, session.model, session.device), session.options.seed)
            for chosen in sets
        ]
    tiles = [tile(picture, (256, 256)) for picture in (style, *textures)]
    titles = [
        "style",
        *("layers " + ", ".join(names[layer] for layer in chosen) for chosen in sets),
    ]
    session.save_rows(
        "style_layers.png", [("", tiles)], titles, "The style by more and more layers"
    )


def inversion(preset: Preset, layer: int, cnn: nn.Module, device: torch.device) -> Preset:
    """Return the course's feature inversion at another layer, whose content loss is made as
    large.
    """
    course = next(each for each in presets() if each.name == INVERSION)
    course = dataclasses.replace(
        course, content=preset.content, styles=preset.styles, image_size=preset.image_size
    )
    made = dataclasses.replace(course, content_layer=layer)
    return with_proportions_of(course, made, [0] * len(made.style_layers), cnn, device)


def texture(
    preset: Preset, layers: tuple[int, ...], cnn: nn.Module, device: torch.device
) -> Preset:
    """Return a texture of the preset's style by these layers, each of equal weight."""
    made = dataclasses.replace(preset, content=None, style_layers=layers)
    return with_proportions_of(preset, made, [1] * len(layers), cnn, device)
