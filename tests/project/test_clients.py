"""Other people's scripts and notebooks: written from the hand-out, in a folder of their own, on our
modules.
"""

import shutil
import textwrap

import nbformat
import numpy as np
import pytest
import warm
from helpers import ROOT
from nbclient import NotebookClient
from PIL import Image

from collect_submission import code_of

pytestmark = pytest.mark.slow

PREAMBLE = """
import sys
sys.path.insert(0, {modules!r})
import numpy as np
import torch
from PIL import Image
from image_utils import *
from data_utils import *
from model_utils import load_model

X, y, class_names = load_imagenet_val(num=5)
model = load_model(weights="bundled", device="cpu")
for parameter in model.parameters():
    parameter.requires_grad = False
X_tensor = torch.cat([preprocess(Image.fromarray(x)) for x in X], dim=0)
y_tensor = torch.LongTensor(y)
"""

SALIENCY = """
from captum.attr import Saliency
from captum_utils import *
from visualizers import SaliencyMap

SaliencyMap().show_saliency_maps(X, y, class_names, model)
attributions = compute_attributions(Saliency(model), X_tensor.requires_grad_(), target=y_tensor)
visualize_attr_maps("visualization/saliency_captum", X, y, class_names, [attributions], ["Saliency"],
                    lambda a: a.permute(1, 2, 0).detach().numpy())
"""

GRADCAM = """
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
from captum.attr import GuidedGradCam, LayerActivation
from captum_utils import *
from visualizers import GradCam

gc = GradCam()
results = {
    "guided_backprop": gc.guided_backprop(X_tensor, y_tensor, model),
    "gradcam": gc.grad_cam(X_tensor, y_tensor, model),
}
results["guided_gradcam"] = results["guided_backprop"] * results["gradcam"][..., None]
for name, maps in results.items():
    plt.figure(figsize=(24, 24))
    for i in range(maps.shape[0]):
        plt.subplot(1, 5, i + 1)
        plt.imshow(rescale(maps[i]))
        plt.axis("off")
    plt.savefig(f"visualization/{name}.png")
guided = compute_attributions(GuidedGradCam(model, model.features[3]), X_tensor.requires_grad_(), target=y_tensor)
visualize_attr_maps("visualization/guided_gradcam_captum.png", X, y, class_names, [guided], ["Guided_Grad_Cam"])
"""

FOOLING = """
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
from visualizers import FoolingImage

target_y = np.int64(6)
X_fooling = FoolingImage().make_fooling_image(X_tensor[:1], target_y, model)
scores = model(X_fooling)
print("Fooled the model!" if scores.data.max(1)[1][0] == target_y else "The model is not fooled!")
plt.imshow(deprocess(X_fooling.clone()))
plt.savefig("visualization/fooling_image.png")
"""

CLASSES = """
from visualizers import ClassVisualization

create = ClassVisualization().create_class_visualization
out = create(187, class_names, model, torch.FloatTensor, num_iterations=4, show_every=2)
assert out.size == (224, 224)
for kwargs, error in (({"wrong": 1}, TypeError), ({"show_every": 0}, ValueError)):
    try:
        create(187, class_names, model, torch.FloatTensor, num_iterations=1, **kwargs)
    except error:
        continue
    raise AssertionError(kwargs)
"""

STYLE = """
from pathlib import Path
from style_modules import *
from style_utils import *

content, style = Path("content.png"), Path("style.png")
for path, photo in ((content, X[0]), (style, X[1])):
    Image.fromarray(photo).save(path)
dtype = torch.FloatTensor
features, image = features_from_img(content, 96, model, dtype)
style_loss = StyleLoss()
targets = [style_loss.gram_matrix(features[layer].clone()) for layer in (1, -6)]
assert style_loss(features, [1, -6], targets, [1, 1]).item() == 0
print(f"TV Loss Error is {rel_error(TotalVariationLoss()(image, 0).numpy(), np.zeros(1)):.3f}")
style_transfer("mine", content, style, 96, 96, 3, 6e-2, (1, 4, 6, 7), (300000, 1000, 15, 3), 2e-2, ContentLoss(),
               style_loss, TotalVariationLoss(), model.features, dtype, num_iterations=3)
"""

# The client's script → what it prints, and the files it leaves: by its own code and by the modules'
# methods.
CLIENTS = {
    "saliency": (SALIENCY, "", {"saliency_captum.png"}, {"visualization/saliency_map.png"}),
    "gradcam": (
        GRADCAM,
        "",
        {"guided_backprop.png", "gradcam.png", "guided_gradcam.png", "guided_gradcam_captum.png"},
        set(),
    ),
    "fooling": (FOOLING, "Fooled the model!\n", {"fooling_image.png"}, set()),
    "classes": (
        CLASSES,
        "",
        set(),
        {f"visualization/class_visualization_iter_{i}.png" for i in (1, 2, 4)},
    ),
    "style": (
        STYLE,
        "TV Loss Error is 0.000\n",
        set(),
        {"styles_images/mine.png", "styles_images/mine_before.png"},
    ),
}


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """A copy of the modules in a folder of its own, as `ROOT` must not be written to."""
    folder = tmp_path_factory.mktemp("modules")
    for path in [*code_of(ROOT), *ROOT.glob("notebooks/**/*.py")]:
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return folder


def run(program, folder):
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("CS7643_DATA", raising=False)
        return warm.run("-c", program, cwd=folder)


def pictures(folder):
    return {path.relative_to(folder).as_posix() for path in folder.glob("*/*.png")}


LABELS = """
import warnings
from captum.attr import Saliency
from captum_utils import compute_attributions
from visualizers import ClassVisualization, FoolingImage, GradCam, SaliencyMap

ids = [int(label) for label in y[:2]]
X = X_tensor[:2]
expected = SaliencyMap().compute_saliency_maps(X, torch.tensor(ids), model)
kinds = [ids, tuple(ids), np.array(ids), np.array(ids, dtype=np.uint16), torch.tensor(ids, dtype=torch.int32)]
for labels in kinds:
    assert torch.equal(SaliencyMap().compute_saliency_maps(X, labels, model), expected)
    assert np.array_equal(GradCam().grad_cam(X, labels, model), GradCam().grad_cam(X, torch.tensor(ids), model))
    assert compute_attributions(Saliency(model), X, target=labels).shape == X.shape
one = SaliencyMap().compute_saliency_maps(X[:1], ids[0], model)
assert (one - expected[:1]).abs().max() < 0.01 * expected.max()  # a batch of another size rounds otherwise
for target in (6, np.int64(6), np.array(6), torch.tensor(6)):
    assert FoolingImage().make_fooling_image(X[:1], target, model, max_iter=1).shape == X[:1].shape
    ClassVisualization().create_class_visualization(
        target, class_names, model, torch.float32, num_iterations=1, generate_plots=False)
    assert compute_attributions(Saliency(model), X, target=target).shape == X.shape
assert preprocess(Image.new("RGB", (50, 40)), size=(20, 30)).shape == (1, 3, 20, 30)
assert deprocess(X).tobytes() == deprocess(X[:1]).tobytes()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    empty, none, names = load_imagenet_val(num=0)
    assert empty.shape == (0, 224, 224, 3) and none.shape == (0,) and len(names) == 1000
    photos, labels, words, names = load_images(3, seed=5)
    again = load_images(3, seed=5)
    assert np.array_equal(photos, again[0]) and labels.tolist() == again[1].tolist() and len(set(labels.tolist())) == 3
    assert photos.dtype == np.uint8 and words == [names[label].split(",")[0] for label in labels.tolist()]
    everything = load_images()
    assert everything[1].tolist() == load_imagenet_val()[1].tolist()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    load_images(9)
assert any("5 are there, 9 were asked for" in str(warning.message) for warning in caught)
"""


STARS = """
for name in ("data_utils", "captum_utils", "image_utils", "style_utils"):
    found = {}
    exec(f"from {name} import *", found)
    public = {key for key in found if key[0] != "_"}
    machinery = {"np", "torch", "nn", "Path", "Image", "log", "logging", "warnings", "course_file"}
    assert not public & machinery and len(public) >= 3, public
"""


def test_course_style_scripts_write_their_files_and_print_what_they_print(modules, tmp_path):
    """One after the other in one process, each in a folder and with names of its own."""
    programs = {name: client[0] for name, client in CLIENTS.items()} | {"labels": LABELS}
    for name, program in programs.items():
        (tmp_path / name / "visualization").mkdir(parents=True)
        (tmp_path / name / "client.py").write_text(PREAMBLE.format(modules=str(modules)) + program)
    driver = f"""
import os
for name in {[*programs]}:
    os.chdir({str(tmp_path)!r} + "/" + name)
    exec(compile(open("client.py").read(), name + "/client.py", "exec"), {{"__name__": "__main__"}})
"""
    before = pictures(modules)
    result = run(driver + STARS, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "".join(printed for _, printed, _, _ in CLIENTS.values())
    notices = result.stderr.count("Warning: photos: five that installed packages ship")
    assert notices == len(programs)
    own = {
        name: {f"visualization/{file}" for file in client[2]} for name, client in CLIENTS.items()
    }
    assert {name: pictures(tmp_path / name) for name in CLIENTS} == own
    by_methods = set().union(*(client[3] for client in CLIENTS.values()))
    assert pictures(modules) - before == by_methods
    for path in [*tmp_path.glob("*/visualization/*.png"), *(modules / file for file in by_methods)]:
        with Image.open(path) as picture:
            assert np.asarray(picture.convert("RGB")).std() > 10  # something is drawn
    with Image.open(modules / "visualization/class_visualization_iter_4.png") as picture:
        assert picture.text["Network"] == "squeezenet1_1"
        heading, title = (
            np.asarray(picture.convert("L"))[rows] for rows in (slice(0, 34), slice(34, 76))
        )
        # "Iteration 4 / 4" and "Yorkshire terrier"
        assert heading.min() < 100 and title.min() < 100


def test_data_beside_the_caller_are_found_first(modules, tmp_path, course):
    (tmp_path / "data").mkdir()
    shutil.copy(course / "imagenet_val_25.npz", tmp_path / "data")
    program = f"""
import os, sys
sys.path.insert(0, {str(modules)!r})
from pathlib import Path
from data_utils import load_imagenet_val
X, y, class_names = load_imagenet_val()
print(len(X), class_names[y[0]])
Path("data/imagenet_val_25.npz").write_bytes(b"another file")
os.environ["CS7643_DATA"] = {str(course)!r}
print(load_imagenet_val(num=5)[1].tolist())
del os.environ["CS7643_DATA"]
load_imagenet_val()
"""
    result = run(program, tmp_path)
    assert result.stdout == "25 hay\n[958, 85, 244, 182, 294]\n"
    assert result.returncode == 1 and "cannot read the course's photos" in result.stderr


# --- Notebooks ---


def run_notebook(folder, *cells):
    """Run cells of code in a notebook in a folder, without an error."""
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(textwrap.dedent(cell)) for cell in cells]
    )
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("CS7643_DATA", raising=False)
        environment.setenv("SQUEEZENET_WEIGHTS", "bundled")
        NotebookClient(
            notebook, timeout=600, resources={"metadata": {"path": str(folder)}}
        ).execute()
    return notebook


@pytest.mark.filterwarnings("default")
def test_a_notebook_beside_the_thin_modules_runs_unchanged(modules):
    cells = [cell for package in ("cs231n", "cs7643") for cell in cells_of_a_notebook(package)]
    run_notebook(modules / "notebooks", *cells)


def cells_of_a_notebook(package: str) -> tuple[str, ...]:
    return (
        f"""
        import inspect
        import torch
        from PIL import Image
        from {package}.data_utils import load_imagenet_val
        from {package}.image_utils import SQUEEZENET_MEAN, SQUEEZENET_STD
        from {package}.net_visualization_pytorch import *
        """,
        """
        X, y, class_names = load_imagenet_val(num=2)
        from model_utils import load_model
        model = load_model()
        X_tensor = torch.cat([preprocess(Image.fromarray(x)) for x in X])
        assert compute_saliency_maps(X_tensor, torch.LongTensor(y), model).shape == (2, 224, 224)
        assert model(make_fooling_image(X_tensor[:1], 6, model)).argmax() == 6
        model.train()
        assert model(make_fool_image(X_tensor[:1], 6, model)).argmax() == 6 and not model.training  # as the course's

        img = torch.randn(1, 3, 224, 224).requires_grad_()
        before = img.detach().clone()
        same = img
        class_visualization_update_step(img, model, 76, 1e-3, 5)
        assert img is same and abs((img - before).norm().item() - 5) < 1e-3
        assert torch.equal(jitter(before, 3, -2), torch.roll(before, (-2, 3), (2, 3)))
        assert blur_image(before.clone(), sigma=0.5).shape == before.shape
        assert deprocess(before).size == (224, 224) and float(rescale(before).max()) == 1
        """,
        f"""
        from {package}.style_transfer_pytorch import *
        Image.fromarray(X[0]).save("content.png")
        feats, image = features_from_img("content.png", 64, model.features)
        assert len(feats) == 13 and image.shape == (1, 3, 64, 64)
        grams = [gram_matrix(feats[1])]
        assert style_loss(feats, [1], grams, [10]).item() == 0
        assert content_loss(0.1, feats[3], feats[3]).item() == 0 and len(extract_features(image, model.features)) == 13
        assert tv_loss(image, 2).item() > 0
        for loss in (content_loss, gram_matrix, style_loss, tv_loss):
            assert "def " in "".join(inspect.getsourcelines(loss)[0])
        assert "for " not in "".join(inspect.getsourcelines(tv_loss)[0])  # the courses' test of loops
        check_scipy()
        settings = dict(image_size=64, style_size=64, content_layer=3, content_weight=5e-2, style_layers=(1, 4),
                        style_weights=(2000, 50), tv_weight=5e-2)
        one = style_transfer("content.png", "content.png", **settings, init_random=True, cnn=model, num_iterations=2)
        two = style_transfer("content.png", "content.png", *settings.values(), True, num_iterations=2)
        assert one.size == (64, 64) and one.tobytes() == two.tobytes()
        assert rel_error(X, X) == 0
        """,
    )


@pytest.mark.filterwarnings("default")
def test_other_courses_notebooks_find_their_modules(modules):
    run_notebook(
        modules / "notebooks",
        """
        import torch
        from PIL import Image
        from network_visualization import *
        from a6_helper import *
        import a4_helper, style_transfer
        from eecs598.grad import rel_error
        hello()
        from model_utils import load_model
        model = load_model().train()
        X = preprocess(Image.new("RGB", (64, 64), (200, 40, 90)), 64)
        assert compute_saliency_maps(X, torch.tensor([3]), model).shape == (1, 64, 64) and not model.training
        attack = make_adversarial_attack(X, 6, model, max_iter=3)
        assert 1 < (attack - X).norm() < 3.01
        img = torch.randn(1, 3, 64, 64).requires_grad_()
        before = img.detach().clone()
        assert class_visualization_step(img, 6, model, learning_rate=2) is img and not torch.equal(img, before)
        assert get_zero_one_masks(deprocess(X), 32).shape == (1, 32, 32)
        assert abs(rel_error(torch.tensor([1.0, 2]), torch.tensor([1.0, 3])) - 0.2) < 1e-6
        for name in ("content_loss", "gram_matrix", "style_loss", "tv_loss"):
            assert callable(getattr(style_transfer, name))
        """,
        """
        from deeplearning.data_utils import load_imagenet_val
        from deeplearning.image_utils import SQUEEZENET_MEAN, SQUEEZENET_STD
        from deeplearning.network_visualization import (
            compute_saliency_maps, make_fooling_image, update_class_visulization)
        from deeplearning.style_transfer import content_loss, gram_matrix, style_loss, tv_loss
        after = update_class_visulization(model, 6, 1e-3, 2, before)
        assert torch.equal(after, img) and not after.requires_grad
        """,
    )


@pytest.mark.filterwarnings("default")
def test_figures_are_shown_below_the_cell_of_a_notebook_and_nowhere_else(modules, tmp_path):
    drawing = f"""
    import sys, warnings
    sys.path.insert(0, {str(modules)!r})
    warnings.simplefilter("ignore")
    import torch
    from captum_utils import visualize_attr_maps
    from data_utils import load_imagenet_val
    from model_utils import load_model
    from visualizers import ClassVisualization, SaliencyMap
    X, y, class_names = load_imagenet_val(num=1)
    model = load_model()
    SaliencyMap().show_saliency_maps(X, y, class_names, model)
    _ = ClassVisualization().create_class_visualization(187, class_names, model, torch.float32, num_iterations=2)
    visualize_attr_maps("maps.png", X, y, class_names, [torch.rand(1, 1, 9, 9)], ["noise"])
    """
    drawing = textwrap.dedent(drawing)
    shown = run_notebook(tmp_path, f"%matplotlib inline\n{drawing}", f"%matplotlib agg\n{drawing}")
    kinds = [
        output.output_type
        for output in shown.cells[0].outputs
        if "image/png" in output.get("data", {})
    ]
    # Saliency map, iterations 1 and 2, attributions; and none as the last line's value
    assert kinds == ["display_data"] * 4 and len(shown.cells[0].outputs) == 4
    assert not any("data" in output for output in shown.cells[1].outputs)
