"""Shared fixtures: tiny seeded networks, the real network with each source of weights, real photos, scripts."""

import os
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
HALF_WEIGHTS = "squeezenet1_1-imagenet1k_v1-half.pth"

# The same examples every time: what a change breaks, it breaks at once, and for everybody.
hypothesis.settings.register_profile("steady", derandomize=True, deadline=None)
hypothesis.settings.load_profile("steady")

# Nothing in the tests asks the network: without a choice the bundled weights are used.
os.environ["SQUEEZENET_WEIGHTS"] = "bundled"


def course_folder() -> Path | None:
    """The folder of the course's data, if the environment names one."""
    folder = os.environ.get("CS7643_DATA")
    return Path(folder).resolve() if folder else None


@pytest.fixture(scope="session")
def course() -> Path:
    """The folder of the course's data; tests that need it are skipped without."""
    folder = course_folder()
    if folder is None or not folder.is_dir():
        pytest.skip("needs the course's data: CS7643_DATA is not set to a folder")
    return folder


@pytest.fixture(scope="session")
def bundled_model() -> nn.Module:
    """The real network with the weights of the original release."""
    from model_utils import load_model

    return load_model(weights="bundled", device="cpu")


@pytest.fixture(scope="session", params=["bundled", "torchvision"])
def real_model(request, bundled_model) -> nn.Module:
    """The real network with each source of weights (torchvision's in half precision, from the course's data)."""
    from model_utils import load_model

    if request.param == "bundled":
        return bundled_model
    return load_model(weights=str(request.getfixturevalue("course") / HALF_WEIGHTS), device="cpu")


@pytest.fixture(scope="session")
def photos():
    """Five real photos that installed packages ship: X uint8 (5, 224, 224, 3), y int64 (5,)."""
    import numpy as np

    from data_utils import PACKAGE_PHOTOS, load_images, package_file

    X = load_images([package_file(package, name) for package, name, _ in PACKAGE_PHOTOS])
    return X, np.array([label for *_, label in PACKAGE_PHOTOS], dtype=np.int64)


@pytest.fixture(scope="session")
def batch(photos):
    """The same photos for a network: float32 (5, 3, 224, 224), int64 (5,)."""
    from image_utils import to_batch

    return to_batch(photos[0]), torch.from_numpy(photos[1])


@pytest.fixture
def tiny_model() -> nn.Module:
    """A tiny seeded convolutional network in float64: 3 channels of any size in, 5 scores out."""
    torch.manual_seed(0)
    return (
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 5),
        )
        .double()
        .eval()
    )


def network_state(model: nn.Module) -> tuple:
    """All that a visualizer must give back as it was: modules, tensors, modes, gradients, hooks."""
    hooks = [name for name in vars(nn.Module()) if name.endswith("_hooks")]
    return (
        [(name, id(module), module.training, type(module).forward) for name, module in model.named_modules()],
        [tuple(len(getattr(module, name)) for name in hooks) for module in model.modules()],
        ["forward" in vars(module) for module in model.modules()],
        [(name, id(p), p.requires_grad, p.grad is None, p.detach().clone()) for name, p in model.named_parameters()],
        [(name, b.clone()) for name, b in model.named_buffers()],
    )


def same_state(before: tuple, after: tuple) -> bool:
    """Whether two results of `network_state` are equal, tensors bit by bit."""
    return before[:3] == after[:3] and all(
        all(
            x.dtype == y.dtype and torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
            for x, y in zip(a, b, strict=True)
        )
        for i in (3, 4)
        for a, b in zip(before[i], after[i], strict=True)
    )


def run_script(name: str, *arguments: str, cwd: Path | None = None, timeout: float = 300, **environment):
    """Run a root script as a user does; returns the completed process with text output."""
    return subprocess.run(
        [sys.executable, str(ROOT / name), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **environment},
    )


def assert_one_line_error(result: subprocess.CompletedProcess, *words: str, status: int = 2) -> None:
    """The script ended with one clear line on standard error that has these words in it, and no output."""
    lines = result.stderr.strip().splitlines()
    assert result.returncode == status, result.stderr
    assert len(lines) == 1 and "Traceback" not in result.stderr, result.stderr
    assert all(word in lines[0] for word in words), result.stderr
    assert result.stdout == ""
