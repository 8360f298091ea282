"""A network to be changed, and pictures for small ones."""

import copy

import pytest
import torch
from torch import nn


@pytest.fixture
def model(bundled_model) -> nn.Module:
    """A copy of the real network."""
    return copy.deepcopy(bundled_model)


@pytest.fixture
def data():
    """Two pictures of 32×32 and their labels, of five."""
    torch.manual_seed(1)
    return torch.randn(2, 3, 32, 32), torch.tensor([1, 4])
