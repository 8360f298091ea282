"""Comparison of tensors."""

import torch


def rel_error(x: torch.Tensor, y: torch.Tensor, eps: float = 1e-10) -> float:
    """Return max|x − y| / max(|x| + |y|)."""
    return ((x - y).abs().max() / (x.abs() + y.abs()).clamp(min=eps).max()).item()
