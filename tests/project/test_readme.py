"""README and docs/ say what is so: their commands run, their options, links and pictures are
there.
"""

import importlib
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import warm
from helpers import ROOT
from PIL import Image

import check
from cli.options import make_parser
from collect_submission import SCRIPTS

README = (ROOT / "README.md").read_text()
PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
GUIDE = "".join((ROOT / name).read_text() for name in PAGES)
DOCUMENTS = (*PAGES, "CONTRIBUTING.md", "data/README.md")
COMMANDS = [
    line.partition("#")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", GUIDE, flags=re.DOTALL)
    for line in block.splitlines()
]

# What is run elsewhere: by CI as it stands, by CI as `make` does it, or by the tests of the file.
RUN_BY_CI = {"make figures", "make test"}
RUN_BY_MAKE = {
    "python3 -m venv .venv",
    ".venv/bin/python -m pip install -r requirements.txt",
    ".venv/bin/python writeup.py",
    "python writeup.py",
    "python writeup.py --only sanity_checks",
}
RUN_BY_THEIR_TESTS = {
    "bash data/get_imagenet_val.sh",
    "python data_utils.py --from STARTER.zip",
    "python writeup.py --only fooling_image class_visualization",
    "python writeup.py --no-run --answers answers.md",
    "python writeup.py --notebooks",
    "python writeup.py --notebooks problem_set.pdf",
    "bash collect_submission.sh",
    "bash collect_submission.sh --code-only",
}
RUN_BY_THEIR_TESTS |= {"python check.py", "python check.py --only saliency_map grad_cam"}
BENCHMARKS = {
    *("python -m pip install -r benchmarks/requirements.txt", "python benchmarks/run.py"),
    "python -m pip install -r benchmarks/requirements-agreement.txt",
    "python benchmarks/agreement.py",
}
NEEDS_NETWORK = {
    "python gradcam.py --arch my_timm.py:network --images cat.jpg",  # timm's weights
    ".venv/bin/python -m pip install torch torchvision --index-url "
    "https://download.pytorch.org/whl/cpu",
}
# Held by test_environment.py
NEEDS_CONDA = {"conda env create -f environment.yaml", "conda activate cs7643-a3"}
RUN_HERE = [
    command
    for command in dict.fromkeys(COMMANDS)  # some stand on two pages
    if command
    not in RUN_BY_CI | RUN_BY_MAKE | RUN_BY_THEIR_TESTS | BENCHMARKS | NEEDS_NETWORK | NEEDS_CONDA
]


MY_NETWORK = """from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        convolution = nn.Conv2d(3, 4, kernel_size=3, stride=4)
        super().__init__(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
"""


@pytest.fixture(scope="module")
def holiday(tmp_path_factory, photos):
    """A folder with the files that the commands name."""
    import torch
    from torchvision import models

    from model_utils import load_model

    folder = tmp_path_factory.mktemp("user")
    (folder / "holiday").mkdir()
    for name, photo in zip(
        ("cat.jpg", "holiday/cup.jpg", "holiday/dusk.png"), photos[0], strict=False
    ):
        Image.fromarray(photo).save(folder / name)
    torch.save(load_model("resnet18", "none", "cpu").state_dict(), folder / "resnet18.pth")
    torch.save(
        {"epoch": 3, "model": models.resnet18(num_classes=10).state_dict()},
        folder / "ten_classes.pth",
    )
    for name in ("wavy_dusk.jpg", "hard_edges.jpg"):
        shutil.copy(ROOT / "data" / "styles" / name, folder)
    left = np.zeros(photos[0][0].shape[:2], np.uint8)
    left[:, : left.shape[1] // 2] = 255
    for name, mask in (("sky.png", left), ("ground.png", 255 - left)):
        Image.fromarray(mask).save(folder / name)
    (folder / "classes.txt").write_text(
        "\n".join(["cup", "dusk", *(f"thing {i}" for i in range(8))])
    )
    (folder / "my_network.py").write_text(MY_NETWORK)
    own: dict = {}
    exec(MY_NETWORK, own)
    torch.save(own["Net"]().state_dict(), folder / "my_weights.pth")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN_HERE)
def test_commands_run(command, holiday, monkeypatch):
    """As they stand, in a folder with the files that they name; where the figures go is added, and
    that Captum takes few steps and the pictures are small.
    """
    *settings, rest = re.match(r"((?:\w+=\S+ )*)(.*)", command).groups()
    for setting in " ".join(settings).split():
        monkeypatch.setenv(*setting.split("="))
    python, script, *arguments = shlex.split(rest)
    assert python == "python" and (ROOT / script).is_file()
    monkeypatch.chdir(holiday)
    if script in ("saliency_map.py", "gradcam.py") and "--steps" not in arguments:
        arguments += ["--steps", "2"]
    if script != "class_visualization.py" and not {"--size", "--image-size"} & {*arguments}:
        arguments += ["--image-size" if script == "style_transfer.py" else "--size", "112"]
    if "--out" not in arguments:
        arguments += ["--out", str(holiday / "out")]
    assert importlib.import_module(Path(script).stem).main(arguments) == 0
    out = holiday / arguments[arguments.index("--out") + 1]
    assert any(out.iterdir())


def test_the_lines_of_python_run(holiday, monkeypatch, capsys):
    program = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)[1]
    assert len(program.splitlines()) <= 14
    monkeypatch.chdir(holiday)
    exec(program, {})
    assert capsys.readouterr() == ("", "")
    with Image.open(holiday / "maps.png") as picture:
        photo, saliency, cam = (
            np.asarray(picture.convert("RGB"))[60:270, left : left + 224] for left in (6, 236, 466)
        )
    assert photo.std() > 20 and saliency.std() > 5 and cam.std() > 20
    assert (saliency[..., 0] >= saliency[..., 2]).all()  # in the colours of heat


def test_every_environment_variable_is_looked_at():
    code = "".join(path.read_text() for path in [*ROOT.glob("*.py"), *ROOT.glob("tests/**/*.py")])
    # The exception is torch's own
    for name in set(re.findall(r"\b[A-Z0-9]+_[A-Z0-9_]+\b(?!\.md)", GUIDE)) - {"OMP_NUM_THREADS"}:
        assert f'"{name}"' in code, name


def test_commands_that_others_run_are_there_as_they_stand():
    assert (
        set(COMMANDS)
        >= RUN_BY_CI | RUN_BY_MAKE | RUN_BY_THEIR_TESTS | BENCHMARKS | NEEDS_NETWORK | NEEDS_CONDA
    )
    ci = (ROOT / ".ci/run").read_text().splitlines()
    assert all(command in ci for command in RUN_BY_CI)
    makefile = (ROOT / "Makefile").read_text()
    assert "$(PYTHON) -m venv .venv" in makefile and "$(python) writeup.py" in makefile
    assert "install := -m pip install " in makefile
    assert ".venv/bin/python $(install) -r requirements.txt" in makefile


@pytest.mark.slow
def test_benchmarks_start(tmp_path):
    """They are far too long for a test; with no technique chosen they only say what they would run
    on.
    """
    assert (ROOT / "benchmarks/requirements.txt").is_file()
    options = ["--only", "no technique", "--output", tmp_path / "RESULTS.md"]
    assert warm.run(ROOT / "benchmarks/run.py", *options).returncode == 0
    assert "torch" in (tmp_path / "RESULTS.md").read_text()


def test_every_option_exists():
    known = {"--from", "--fetch", "--code-only", "--index-url"}  # the last is pip's
    for script in SCRIPTS[:7]:  # not check.py and data_utils.py
        parser = make_parser("")
        importlib.import_module(script.removesuffix(".py")).add_options(parser)
        known |= {option for action in parser._actions for option in action.option_strings}
    for action in check.make_parser()._actions:
        known |= set(action.option_strings)
    text = "".join((ROOT / name).read_text() for name in DOCUMENTS)
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))
    assert named <= known, named - known


@pytest.mark.slow
def test_the_readmes_options_of_other_commands_are_in_their_help():
    for script, options in (
        ("data_utils.py", ["--from"]),
        ("collect_submission.py", ["--code-only"]),
    ):
        shown = warm.run(ROOT / script, "--help")
        assert all(option in shown.stdout for option in options)


def test_links_and_pictures_point_to_files():
    for name in DOCUMENTS:
        text = (ROOT / name).read_text()
        for target in re.findall(r"\]\(([^)]+)\)", text):
            if not target.startswith("https://"):
                assert ((ROOT / name).parent / target).exists(), target
        for target in re.findall(r"`([\w./-]+\.(?:py|sh|bat|yaml|txt|md|ipynb))`", text):
            assert (ROOT / target).exists() or ((ROOT / name).parent / target).exists(), target


def test_pictures_are_small_and_all_used():
    pictures = [path for path in (ROOT / "docs").iterdir() if path.suffix != ".md"]
    assert sum(path.stat().st_size for path in pictures) < 2_000_000
    assert all(path.name in GUIDE for path in pictures)


def test_the_readme_is_one_look_long():
    assert len(README.splitlines()) <= 200
    assert all(f"]({name})" in README for name in PAGES[1:])


def test_figures_in_the_table_are_those_of_the_report():
    from report.questions import QUESTIONS

    table = README[README.index("| question |") : README.index("Every figure carries")]
    for name in (name for question in QUESTIONS for name in question.figures):
        assert f"`{name}`" in table, name
