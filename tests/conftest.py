"""Shared fixtures: tiny seeded networks, the real network with each source of weights, real photos,
scripts.
"""

import os
import signal
from pathlib import Path

import hypothesis
import pytest

from cli.process import prepare_torch

# Before torch is imported. From here on the number of threads is fixed, so that all scripts give
# the same bytes.
prepare_torch()
os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
# Workers beside one another take one each; they inherit what the process before them has set.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

import torch  # noqa: E402
import warm  # noqa: E402
from helpers import HALF_WEIGHTS, NETWORKS, ROOT, course_folder  # noqa: E402
from solutions import SERVER, write  # noqa: E402
from torch import nn  # noqa: E402

from course.make_starter import course_files  # noqa: E402

# The same examples every time: what a change breaks, it breaks at once, and for everybody.
hypothesis.settings.register_profile("steady", derandomize=True, deadline=None)
hypothesis.settings.load_profile("steady")

# In the background and under nohup signals are ignored, by what the tests start, too.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Nothing in the tests asks the network: without a choice the bundled weights are used.
os.environ["SQUEEZENET_WEIGHTS"] = "bundled"


CHECKOUT = pytest.StashKey[dict[str, tuple[int, int]]]()
WARM = pytest.StashKey[warm.Server]()


def checkout() -> dict[str, tuple[int, int]]:
    """Size and time of every file of the project, outside environments, caches and git."""
    found = {}
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name[0] != "." and name != "__pycache__"]
        for path in (Path(folder, name) for name in names):
            facts = path.lstat()
            found[path.relative_to(ROOT).as_posix()] = facts.st_size, facts.st_mtime_ns
    return found


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[CHECKOUT] = checkout()
    if hasattr(os, "fork") and not hasattr(session.config, "workerinput"):
        session.config.stash[WARM] = warm.Server()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tests leave the checkout as they found it; a worker leaves the comparison to the process that
    started it.
    """
    if not hasattr(session.config, "workerinput"):
        if WARM in session.config.stash:
            session.config.stash[WARM].close()
        changed = sorted(
            {name for name, _ in session.config.stash[CHECKOUT].items() ^ checkout().items()}
        )
        if changed:
            session.config.get_terminal_writer().line(
                f"\nchanged while the tests ran: {', '.join(changed)}", red=True
            )
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")


@pytest.fixture(autouse=True)
def items_can_be_started() -> None:
    """A command of the check's that has been called in this process has ended its server."""
    SERVER.open()


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
    """The real network with each source of weights (torchvision's in half precision, from the
    course's data).
    """
    from model_utils import load_model

    if request.param == "bundled":
        return bundled_model
    return load_model(weights=str(request.getfixturevalue("course") / HALF_WEIGHTS), device="cpu")


@pytest.fixture(scope="session")
def photos():
    """Five real photos that installed packages ship: X uint8 (5, 224, 224, 3), y int64 (5,)."""
    import numpy as np

    from data_utils import PACKAGE_PHOTOS, open_photos
    from files.course import package_file

    X = open_photos([package_file(package, name) for package, name, _ in PACKAGE_PHOTOS])
    return X, np.array([label for *_, label in PACKAGE_PHOTOS], dtype=np.int64)


@pytest.fixture(scope="session")
def batch(photos):
    """The same photos for a network: float32 (5, 3, 224, 224), int64 (5,)."""
    from image_utils import to_batch

    return to_batch(photos[0]), torch.from_numpy(photos[1])


@pytest.fixture(scope="session")
def solution_files() -> dict[str, bytes]:
    return course_files(ROOT)


@pytest.fixture
def solution(solution_files, tmp_path) -> Path:
    """A copy of the solution, to be checked."""
    return write(solution_files, tmp_path)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """An empty project folder in which the course's files are looked for; they are nowhere else."""
    monkeypatch.setattr("files.course.ROOT", tmp_path / "project")
    monkeypatch.delenv("CS7643_DATA", raising=False)
    (tmp_path / "project").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "project"


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


@pytest.fixture
def own_file(tmp_path) -> Path:
    """A user's file with networks, `NETWORKS`, beside a module that it imports."""
    (tmp_path / "helper.py").write_text("CLASSES = 3\n")
    (tmp_path / "nets.py").write_text(NETWORKS)
    return tmp_path / "nets.py"


@pytest.fixture(scope="session")
def resnet_state() -> dict:
    """The state dict of a resnet18 with 10 classes."""
    from torchvision import models

    torch.manual_seed(3)
    return models.resnet18(num_classes=10).state_dict()
