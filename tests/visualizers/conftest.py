"""A network to be changed."""

import copy

import pytest
from torch import nn


@pytest.fixture
def model(bundled_model) -> nn.Module:
    """A copy of the real network."""
    return copy.deepcopy(bundled_model)
