"""Style transfer's pictures: one painted coarse to fine, and strips that show each layer."""

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
    """Make one picture, coarse to fine; return the terms at each step and the picture.

    The terms are content, style, total variation, total, style by layer; the picture is (1, 3, H,
    W).

    Raises:
        KeyboardInterrupt: Ctrl-C; the picture reached by then is written, and the message says so.
    """
    options, folder = session.options, session.folder("styles_images")
    count = options.iterations or ITERATIONS[options.optimizer]
    scales = given(options, "scales") or (1 if options.optimizer == "course" else "auto")
    sizes = scale_sizes(preset.image_size, scales)
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

    kwargs: dict[str, Any] = {
        "callback": report,
        "seed": options.seed,
        "preserve_color": options.preserve_color,
        "output": folder,
        "notes": session.provenance(iterations=count, pictures=preset.description()),
        "style_shares": preset.shares,
        "masks": preset.masks and [pictures[path] for path in preset.masks],
    }
    with session.progress(description=preset.name, total=sum(steps)) as bar:
        try:
            for size, number in zip(sizes, steps, strict=True):
                side = max(32, preset.style_size * size // preset.image_size)
                scaled = dataclasses.replace(preset, image_size=size, style_size=side)
                start = last[0].image if last else None
                paint(
                    session, scaled, pictures, losses, num_iterations=number, start=start, **kwargs
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


def paint(
    session: Session,
    preset: Preset,
    pictures: Mapping[Path, Image],
    losses: tuple[nn.Module, nn.Module, nn.Module],
    **kwargs,
) -> torch.Tensor | None:
    """Call `style_transfer` with a preset, the session's network and rule, and more keywords."""
    return style_transfer(
        preset.name,
        None if preset.content is None else pictures[preset.content],
        [pictures[path] for path in preset.styles],
        preset.image_size,
        preset.style_size,
        preset.content_layer,
        preset.content_weight,
        preset.style_layers,
        preset.style_weights,
        preset.tv_weight,
        *losses,
        session.model,
        session.device,
        preset.init_random,
        optimizer=session.options.optimizer,
        **kwargs,
    )


def save_losses(
    session: Session,
    chosen: Sequence[Preset],
    curves: Mapping[str, Sequence[tuple[float, ...]]],
    **facts,
) -> None:
    """Write style_losses.png: the terms over the steps, the style term also by layer."""
    # A style loss of one's own need not tell its terms.
    with_layers = {name for name, curve in curves.items() if len(curve[0]) > 4}
    by_layer = {
        preset.name: [
            f"style, layer {layer}"
            for layer, weight in zip(preset.style_layers, preset.style_weights, strict=True)
            if weight
        ]
        for preset in chosen
        if preset.name in with_layers
    }
    session.save(draw_losses(curves, by_layer), "style_losses.png", **facts)


def make_strips(
    session: Session,
    preset: Preset,
    layers: tuple[int, ...],
    pictures: Mapping[Path, Image],
    losses: tuple[nn.Module, nn.Module, nn.Module],
) -> None:
    """Write content_layers.png and style_layers.png.

    The first shows the content inverted from each of several layers and two noises, the second the
    style's texture by one layer, two layers, and so on.

    Args:
        preset: the pictures, sizes and the weights for SqueezeNet.
        layers: the network's style layers.
    """
    assert preset.content is not None  # or it would have been refused
    names = list(feature_layers(session.model))
    deep = [*layers, len(names) - 1]
    sets = [layers[: number + 1] for number in range(len(layers))]
    inversions = [inversion(preset, layer, session.model, session.device) for layer in deep]
    textures = [texture(preset, chosen, session.model, session.device) for chosen in sets]
    with session.progress(description="strips", total=NOISES * len(deep) + len(sets)) as bar:

        def tiles(picture: Any, settings: Sequence[Preset], seed: int, size: tuple[int, int]):
            """Return a picture, and what each of the settings makes, as tiles of a size."""
            images: list[Any] = [picture]
            for setting in settings:
                count = session.options.iterations
                kwargs: dict[str, Any] = {"num_iterations": count, "seed": seed, "testing": True}
                images.append(paint(session, setting, pictures, losses, **kwargs))
                bar.update()
            return [tile(image, size) for image in images]

        rows = []
        for number in range(NOISES):
            seed = session.options.seed + number
            row = tiles(pictures[preset.content], inversions, seed, (256, 192))
            rows.append((f"noise {number + 1}", row))
        titles = ["content", *(f"layer {names[layer]}" for layer in deep)]
        session.save_rows("content_layers.png", rows, titles, "The content by one layer alone")
        row = tiles(pictures[preset.styles[0]], textures, session.options.seed, (256, 256))
    layers_of = ("layers " + ", ".join(names[layer] for layer in chosen) for chosen in sets)
    heading = "The style by more and more layers"
    session.save_rows("style_layers.png", [("", row)], ["style", *layers_of], heading)


def inversion(preset: Preset, layer: int, cnn: nn.Module, device: torch.device) -> Preset:
    """Return the course's feature inversion at another layer, with a content loss as large."""
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
