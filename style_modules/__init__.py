"""The three terms that neural style transfer minimises: content, style and total variation."""

from .content_loss import ContentLoss
from .guided_style import guided_gram_matrix, guided_style_loss
from .style_loss import StyleLoss
from .tv_loss import TotalVariationLoss

__all__ = [
    "ContentLoss",
    "StyleLoss",
    "TotalVariationLoss",
    "guided_gram_matrix",
    "guided_style_loss",
]
