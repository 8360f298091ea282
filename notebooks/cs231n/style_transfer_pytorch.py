"""The second notebook's functions: the losses, features and style transfer."""

import inspect

from PIL import Image
from torch import nn

import style_utils
from model_utils import load_model
from style_modules import ContentLoss, StyleLoss, TotalVariationLoss
from style_utils import check_scipy, deprocess, extract_features, preprocess, rel_error, rescale

__all__ = [
    "check_scipy",
    "content_loss",
    "deprocess",
    "extract_features",
    "features_from_img",
    "gram_matrix",
    "preprocess",
    "rel_error",
    "rescale",
    "style_loss",
    "style_transfer",
    "tv_loss",
]

content_loss, style_loss, tv_loss = (
    ContentLoss().forward,
    StyleLoss().forward,
    TotalVariationLoss().forward,
)
gram_matrix = StyleLoss().gram_matrix


SETTINGS = [*list(inspect.signature(style_utils.style_transfer).parameters)[1:10], "init_random"]


def features_from_img(imgpath, imgsize: int, cnn: nn.Module, dtype=None):
    """Return an image file's features and the picture, in the network's type."""
    return style_utils.features_from_img(
        imgpath, imgsize, cnn, dtype or next(cnn.parameters()).type()
    )


def style_transfer(*settings, cnn: nn.Module | None = None, **kwargs) -> Image.Image:
    """Return one picture in the style of another: `style_utils.style_transfer`.

    Args:
        settings: content_image, style_image, image_size, style_size, content_layer, content_weight,
            style_layers, style_weights, tv_weight and init_random, in this order or by name.
        cnn: network, or its feature layers; by default SqueezeNet with the weights that are there.
        kwargs: further ones, for example `optimizer` or `num_iterations`.
    """
    cnn = cnn or load_model()
    kwargs |= dict(zip(SETTINGS, settings, strict=False))
    kwargs |= {
        "content_loss": ContentLoss(),
        "style_loss": StyleLoss(),
        "tv_loss": TotalVariationLoss(),
    }
    kwargs |= {"cnn": cnn, "dtype": next(cnn.parameters()).type(), "testing": True}
    return deprocess(style_utils.style_transfer("notebook", **kwargs), should_rescale=False)
