"""How networks are evaluated on a GPU, as far as that can be tried without one."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from captum_utils import attr, compute_attributions
from visualizers import SaliencyMap
from visualizers.common import class_scores, finite
from visualizers.evaluation import at_once, evaluation_mode, full_precision

MATMUL = torch.backends.cuda.matmul


def settings() -> list:
    """Everything that can be read about a GPU's precision, by the old interface and the new one."""
    new = [MATMUL.fp32_precision, torch.backends.cudnn.conv.fp32_precision] if hasattr(MATMUL, "fp32_precision") else []
    return [torch.backends.cudnn.allow_tf32, MATMUL.allow_tf32, torch.get_float32_matmul_precision(), *new]


@pytest.mark.parametrize("changed", [False, True])
def test_full_precision_gives_back_the_caller_s_settings(changed):
    torch.backends.cudnn.allow_tf32 = not changed
    torch.set_float32_matmul_precision("high" if changed else "highest")
    try:
        before = settings()
        with pytest.raises(KeyError), full_precision():
            if hasattr(MATMUL, "fp32_precision"):
                assert (MATMUL.fp32_precision, torch.backends.cudnn.conv.fp32_precision) == ("ieee", "ieee")
            else:
                assert not (torch.backends.cudnn.allow_tf32 or MATMUL.allow_tf32)
            raise KeyError
        assert settings() == before
    finally:
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("highest")


def test_techniques_compute_in_full_precision():
    class Noting(nn.Module):
        def forward(self, x):
            seen.append(torch.backends.cudnn.conv.fp32_precision)
            return x.mean(dim=(2, 3))

    if not hasattr(torch.backends.cudnn, "conv"):
        pytest.skip("the interface of torch 2.9")
    seen: list[str] = []
    X = torch.randn(1, 3, 4, 4)
    SaliencyMap().compute_saliency_maps(X, 0, Noting())
    compute_attributions(attr.Saliency(Noting()), X, target=0)
    assert set(seen) == {"ieee"} and torch.backends.cudnn.conv.fp32_precision == "tf32"


@pytest.mark.parametrize("most", [1, 3, 8])
def test_halves_where_memory_does_not_hold_all_images(most):
    sizes = []

    def technique(images, labels):
        if len(images) > most:
            raise torch.OutOfMemoryError("too many")
        sizes.append(len(images))
        return 2 * images, labels

    images, labels = torch.arange(10.0), torch.arange(10)
    doubled, same = at_once(technique, images, labels)
    assert torch.equal(doubled, 2 * images) and torch.equal(same, labels)
    assert max(sizes) <= most and sum(sizes) == 10
    with pytest.raises(torch.OutOfMemoryError):
        at_once(lambda images: technique(torch.zeros(9), images), images)


def test_no_number_is_waited_for_before_the_end():
    """Of a fake CUDA tensor no number can be read: to ask for one is an error."""
    with FakeTensorMode():
        model = nn.Sequential(nn.Conv2d(3, 5, 3, device="cuda"), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
        X, y = torch.randn(2, 3, 8, 8, device="cuda"), torch.tensor([1, 9], device="cuda")
        at_the_end = False
        with pytest.raises(DataDependentOutputException), evaluation_mode(model):
            scores = finite(class_scores(model, X, y))  # 9 is no class; autograd needs a real GPU
            at_the_end = True
    assert at_the_end and scores.shape == (2,)
    X = torch.randn(1, 3, 8, 8)  # nothing is left over for the next call
    assert SaliencyMap().compute_saliency_maps(X, 0, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())).any()
