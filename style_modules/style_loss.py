"""Style loss: how far the correlations of feature channels are from the style picture's."""

from collections.abc import Sequence

import torch
from torch import nn


class _SelfProduct(torch.autograd.Function):
    """FᵀF for matrices F of shape (N, P, C).

    Autograd would multiply twice on the way back, F·g and F·gᵀ; the gradient is the one product
    F·(g + gᵀ). `backward` consists of differentiable operations, so it can itself be
    differentiated.
    """

    @staticmethod
    def forward(ctx, matrix: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(matrix)
        return matrix.mT @ matrix

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        (matrix,) = ctx.saved_tensors
        return matrix @ (grad + grad.mT)


class StyleLoss(nn.Module):
    """Style loss: Gatys et al. (CVPR 2016), equations 3 to 5.

    Gatys, Ecker and Bethge, "Image Style Transfer Using Convolutional Neural Networks"; the
    normalisation is in the Gram matrices, and the factor 1/4 is left out.

    After a call `terms` holds the weighted loss of each layer, detached.
    """

    terms: Sequence[torch.Tensor] = ()

    def gram_matrix(self, features: torch.Tensor, normalize: bool = True) -> torch.Tensor:
        """Inner products of the feature channels, taken over all positions.

        Args:
            features: (N, C, H, W) in any memory layout.
            normalize: divide by C · H · W.

        Returns:
            (N, C, C), symmetric and positive semi-definite; float32 for features in half precision,
            in which the sums would overflow.

        Raises:
            ValueError: `features` does not have four dimensions, or C, H or W is 0.
        """
        if features.dim() != 4 or 0 in features.shape[1:]:
            raise ValueError(
                f"features must have shape (N, C, H, W) without empty sides, got "
                f"{tuple(features.shape)}"
            )
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        # One row a position: a view, not a copy, of channels-last and of contiguous features alike.
        gram = _SelfProduct.apply(features.permute(0, 2, 3, 1).flatten(1, 2))
        return gram / features.shape[1:].numel() if normalize else gram

    def forward(
        self,
        feats: Sequence[torch.Tensor],
        style_layers: Sequence[int],
        style_targets: Sequence[torch.Tensor],
        style_weights: Sequence[float],
    ) -> torch.Tensor:
        """Σ_l w_l · Σ (G_l − A_l)², with G_l the Gram matrix of layer l.

        Args:
            feats: features of the picture under optimisation, one tensor (N, C, H, W) per layer of
                the network.
            style_layers: the layers l, as indices into `feats`; negative ones count from the end.
            style_targets: one Gram matrix A_l (N, C, C) of the style picture per layer in
                `style_layers`.
            style_weights: one factor w_l per layer in `style_layers`.

        Returns:
            0-dim tensor; zero when `style_layers` is empty.

        Raises:
            ValueError: the three lists differ in length, a layer is not in `feats`, or a target's
                shape does not fit.
        """
        if not len(style_layers) == len(style_targets) == len(style_weights):
            raise ValueError(
                f"style_layers, style_targets and style_weights must be of equal length, "
                f"got {len(style_layers)}, {len(style_targets)} and {len(style_weights)}"
            )
        terms = [
            weight * self._distance(feats, layer, target)
            for layer, target, weight in zip(
                style_layers, style_targets, style_weights, strict=True
            )
        ]
        self.terms = [term.detach() for term in terms]
        return sum(terms, start=feats[0].new_zeros(()) if len(feats) else torch.zeros(()))

    def layer_gram(self, feats: Sequence[torch.Tensor], layer: int) -> torch.Tensor:
        """Return the Gram matrix that a layer's target is compared with."""
        return self.gram_matrix(feats[layer])

    def _distance(
        self, feats: Sequence[torch.Tensor], layer: int, target: torch.Tensor
    ) -> torch.Tensor:
        """Σ (G_l − A_l)² of one layer."""
        if not -len(feats) <= layer < len(feats):
            raise ValueError(
                f"style_layers holds {layer}, but feats has the layers 0 to {len(feats) - 1}"
            )
        gram = self.layer_gram(feats, layer)
        if gram.shape != target.shape:
            raise ValueError(
                f"style_targets for layer {layer} has shape {tuple(target.shape)}, "
                f"but the Gram matrix of that layer has {tuple(gram.shape)}; they must be equal"
            )
        return (gram - target).square().sum()
