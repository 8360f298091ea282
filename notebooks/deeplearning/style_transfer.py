"""CS182's functions of style transfer: the losses and the Gram matrix."""

from cs231n.style_transfer_pytorch import content_loss, gram_matrix, style_loss, tv_loss

__all__ = ["content_loss", "gram_matrix", "style_loss", "tv_loss"]
