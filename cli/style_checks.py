"""The four reference checks of style transfer's losses, for the script and for notebooks.

Each test takes a student's function or module and returns the line that the course asks for.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from cli.process import print_line
from cli.session import Session
from cli.style_presets import CONTENT_LAYER, NIGHT, STYLE_LAYERS
from files.atomic import ROOT
from files.course import course_file, package_file
from model_utils import load_model
from style_modules import ContentLoss, StyleLoss, TotalVariationLoss
from style_utils import extract_features, features_from_img, reference_values, rel_error

# Short side of the pictures; weights of the style loss
SIZE, STYLE_WEIGHTS = 192, (300000, 1000, 15, 3)


@dataclass(frozen=True)
class Reference:
    """Reference values, and the pictures and features that they belong to."""

    values: dict[str, np.ndarray]  # cl_out, gm_out, sl_out, tv_out
    image: torch.Tensor  # the content picture (1, 3, H, W), normalised
    content: list[torch.Tensor]  # its features, one tensor per layer
    black: list[torch.Tensor]  # those of a picture of zeros
    style: list[torch.Tensor]  # those of the style picture

    def error(self, key: str, value: torch.Tensor | float) -> float:
        """Return the relative error of a value."""
        return float(rel_error(self.values[key], torch.as_tensor(value).detach().cpu().numpy()))


def reference(model: nn.Module, official: bool) -> Reference:
    """Return the course's reference values, or the project's own.

    Args:
        model: the network, for the course's values.
        official: whether the network is SqueezeNet 1.1 with torchvision's weights, which the
            course's values belong to. Otherwise, and without the course's data, the values are
            those of the bundled weights in data/reference_values.npz.
    """
    names = (
        "data/style-transfer-checks.npz",
        "styles_images/tubingen.jpg",
        "styles_images/starry_night.jpg",
    )
    files = [path for name in names if (path := course_file(name))]
    device = next(model.parameters(), torch.empty(0)).device
    if not official or len(files) < len(names):
        cat, painting = (
            package_file("skimage", "data/chelsea.png"),
            ROOT / "data" / "styles" / NIGHT,
        )
        files = [ROOT / "data" / "reference_values.npz", cat, painting]
        model = load_model(weights="bundled", device=device)
    content, image = features_from_img(files[1], SIZE, model, device)
    style, _ = features_from_img(files[2], SIZE, model, device)
    black = extract_features(0 * image, model, CONTENT_LAYER)
    return Reference(reference_values(files[0]), image, content, black, style)


def print_checks(
    session: Session, content_loss: ContentLoss, style_loss: StyleLoss, tv_loss: TotalVariationLoss
) -> None:
    """Print the four lines that the course asks for, each as soon as it is known."""
    weights = session.model.weights_name
    official = session.options.arch == "squeezenet1_1" and not weights.startswith(
        ("bundled", "random")
    )
    ref = reference(session.model, official)
    print_line(content_loss_test(content_loss, ref))
    print_line(gram_matrix_test(style_loss.gram_matrix, ref))
    print_line(style_loss_test(style_loss, style_loss.gram_matrix, ref))
    print_line(tv_loss_test(tv_loss, ref))


def content_loss_test(content_loss: Callable, ref: Reference) -> str:
    """Test the content loss: of the content picture against a picture of zeros."""
    value = content_loss(6e-2, ref.content[CONTENT_LAYER], ref.black[CONTENT_LAYER])
    return f"Content Loss Maximum error is {ref.error('cl_out', value):.3f}"


def gram_matrix_test(gram_matrix: Callable, ref: Reference) -> str:
    """Test the Gram matrix: of the style picture at layer 5."""
    return f"Gram Matrix Maximum error is {ref.error('gm_out', gram_matrix(ref.style[5])):.3f}"


def style_loss_test(style_loss: Callable, gram_matrix: Callable, ref: Reference) -> str:
    """Test the style loss: of the content picture against the style picture."""
    targets = [gram_matrix(ref.style[layer]) for layer in STYLE_LAYERS]
    value = style_loss(ref.content, STYLE_LAYERS, targets, STYLE_WEIGHTS)
    return f"Style Loss Error is {ref.error('sl_out', value):.3f}"


def tv_loss_test(tv_loss: Callable, ref: Reference) -> str:
    """Test the total variation: of the content picture."""
    return f"TV Loss Error is {ref.error('tv_out', tv_loss(ref.image, 2e-2)):.3f}"
