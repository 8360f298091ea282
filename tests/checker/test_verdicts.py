"""Verdicts on functions written otherwise than the reference and than `course/mistakes.py`: right
ones are ok, wrong ones are not, and what is said of them is true.

Each is measured in this process; that a process of its own survives anything is tested elsewhere.
"""

import sys
import textwrap

import pytest

import check
from checker import process
from checker.editions import TABLE
from checker.items import of_edition, place
from checker.solution import EXPORTS, Solution

ITEMS = {item.name: item for name in TABLE for item in of_edition(name)}
PARAMETERS = {
    "content_loss": "content_weight, content_current, content_original",
    "gram_matrix": "features, normalize=True",
    "style_loss": "feats, style_layers, style_targets, style_weights",
    "tv_loss": "img, tv_weight",
    "saliency_map": "X, y, model",
    "guided_backprop": "X, y, model",
    "grad_cam": "X, y, model",
    "fooling_image": "X, target_y, model, max_iter=100",
    "class_visualization": "target_y, class_names, model, dtype, **kwargs",
}
LOSS = "torch.nn.functional.cross_entropy"
SALIENCY = """
model.eval()
X = X.clone().requires_grad_()
scores = model(X)
(g,) = torch.autograd.grad(scores.gather(1, y[:, None]).sum(), X)
return g.abs().amax(1)
"""
FOOLING = """
model.eval()
image = X.clone().requires_grad_()
for t in range(max_iter):
    scores = model(image)
    if scores.argmax() == target_y:
        break
    scores[0, target_y].backward()
    g = image.grad
    image.data += 10 * g / g.norm()
    g.zero_()
return image.detach()
"""
GROWN = """
from image_utils import SQUEEZENET_MEAN, SQUEEZENET_STD, blur_image, deprocess
mean, std = (torch.from_numpy(x)[:, None, None] for x in (SQUEEZENET_MEAN, SQUEEZENET_STD))
model.eval()
rate, l2 = kwargs["learning_rate"], kwargs["l2_reg"]
img = torch.randn(1, 3, 224, 224).requires_grad_()
for t in range(kwargs["num_iterations"]):
    score = model(img)[0, target_y] - l2 * (img ** 2).sum()
    score.backward()
    g = img.grad
    img.data += rate * g / g.norm()
    g.zero_()
    img.data = torch.maximum(torch.minimum(img.data, (1 - mean) / std), -mean / std)
    if t % kwargs["blur_every"] == 0:
        blur_image(img.data, 0.5)
return deprocess(img.data)
"""
CAM = """
import numpy as np
from PIL import Image
model.eval()
kept = model.features(X.clone())
kept.retain_grad() if kept.requires_grad else kept.requires_grad_()
scores = model.classifier(kept).flatten(1)
(g,) = torch.autograd.grad(scores.gather(1, y[:, None]).sum(), kept)
maps = torch.einsum("nk,nkhw->nhw", g.mean((2, 3)), kept).clamp(min=0).detach().numpy()
size = (X.shape[3], X.shape[2])
maps = np.stack([np.array(Image.fromarray(m).resize(size, Image.Resampling.BICUBIC)) for m in maps])
return (maps - maps.min()) / np.ptp(maps)
"""

# Item, body, what is said; nothing: it is right.
QUICK = [
    (
        "content_loss",
        "return content_weight * (content_current - content_original).norm() ** 2",
        "",
    ),
    (
        "content_loss",
        "d = (content_current - content_original).flatten()\nreturn content_weight * d @ d",
        "",
    ),
    (
        "content_loss",
        "return sum(content_weight * (a - b) @ (a - b) for a, b in "
        "zip(content_current.flatten(1), content_original.flatten(1)))",
        "",
    ),
    (
        "content_loss",
        "return content_weight * (content_current - content_original).norm()",
        "differ",
    ),
    (
        "content_loss",
        "return content_weight * (content_current - content_original).sum() ** 2",
        "differ",
    ),
    (
        "content_loss",
        "return content_weight * ((content_current.detach() - content_original) ** 2).sum()",
        "no gradient",
    ),
    (
        "content_loss",
        "return content_weight * ((content_current - content_original) ** 2)[:, 0].sum()",
        "differ",
    ),
    ("content_loss", "pass", "nothing is given back"),
    (
        "gram_matrix",
        "f = features.flatten(2)\nreturn f @ f.mT / (f[0].numel() if normalize else 1)",
        "",
    ),
    (
        "gram_matrix",
        "N, C, H, W = features.shape\ngram = torch.zeros(N, C, C)\nfor n in range(N):\n"
        "    f = features[n].view(C, -1)\n    gram[n] = f.mm(f.t())\n"
        "if normalize:\n    gram /= C * H * W\nreturn gram",
        "",
    ),
    (
        "gram_matrix",
        "f = features.flatten(2)\nf = f - f.mean(2, keepdim=True)\n"
        "return f @ f.mT / (f[0].numel() if normalize else 1)",
        "differ",
    ),
    (
        "gram_matrix",
        "f = features.detach().flatten(2)\nreturn f @ f.mT / (f[0].numel() if normalize else 1)",
        "no gradient",
    ),
    (
        "gram_matrix",
        "f = features.flatten(2)\nreturn 2 * f @ f.mT / (f[0].numel() if normalize else 1)",
        "2 times what they should be",
    ),
    (
        "gram_matrix",
        "C, H, W = features.shape[1:]\nf = features.view(C, H * W)\n"
        "return f @ f.t() / (C * H * W if normalize else 1)",
        "a single image only",
    ),
    (
        "gram_matrix",
        "N, C, H, W = features.shape\nf = features.view(N * C, H * W)\n"
        "return f @ f.t() / (C * H * W if normalize else 1)",
        "a single image only",
    ),
    (
        "gram_matrix",
        "f = features.flatten(2)\nreturn f @ f.mT / (features.shape[-1] if normalize else 1)",
        "differ",
    ),
    (
        "style_loss",
        "loss = 0\nfor i, layer in enumerate(style_layers):\n    "
        "loss += style_weights[i] * (self.gram_matrix(feats[layer]) - style_targets[i]).pow(2).sum()\n"
        "return loss",
        "",
    ),
    (
        "style_loss",
        "loss = torch.zeros(1)\nfor layer, a, w in zip(style_layers, style_targets, style_weights):\n"
        "    loss = loss + w * (self.gram_matrix(feats[layer]) - a).norm() ** 2\nreturn loss",
        "",
    ),
    (
        "style_loss",
        "loss = 0\nfor i, layer in enumerate(style_layers):\n    "
        "loss += style_weights[-1 - i] * ((self.gram_matrix(feats[layer]) - style_targets[i]) ** 2)"
        ".sum()\nreturn loss",
        "differ",
    ),
    (
        "style_loss",
        "loss = 0\nfor i, layer in enumerate(style_layers):\n    "
        "loss += style_weights[i] * ((self.gram_matrix(feats[layer], False) - style_targets[i]) ** 2)"
        ".sum()\nreturn loss",
        "not normalised",
    ),
    (
        "style_loss",
        "loss = 0\nfor i, layer in enumerate(style_layers):\n    "
        "loss += style_weights[i] * (self.gram_matrix(feats[layer]) - style_targets[i]).relu()"
        ".pow(2).sum()\nreturn loss",
        "differ",
    ),
    (
        "style_loss",
        "return sum(w * ((self.gram_matrix(feats[l]) - style_targets[l // 2]) ** 2).sum() "
        "for l, w in zip(style_layers, style_weights))",
        "differ",
    ),
    (
        "tv_loss",
        "loss = 0\nfor c in range(3):\n    p = img[:, c]\n"
        "    loss += (p[:, 1:] - p[:, :-1]).pow(2).sum() + (p[..., 1:] - p[..., :-1]).pow(2).sum()\n"
        "return tv_weight * loss",
        "",
    ),
    (
        "tv_loss",
        "d = torch.cat([img.diff(dim=2).flatten(), img.diff(dim=3).flatten()])\n"
        "return tv_weight * d.square().sum()",
        "",
    ),
    (
        "tv_loss",
        "return tv_weight * ((img - img.roll(1, 2)) ** 2 + (img - img.roll(1, 3)) ** 2).sum()",
        "differ",
    ),
    (
        "tv_loss",
        "return tv_weight * (img[..., 1:, 1:] - img[..., :-1, :-1]).square().sum()",
        "differ",
    ),
    (
        "tv_loss",
        "a, b, c = img[..., 1:, :-1], img[..., :-1, 1:], img[..., :-1, :-1]\n"
        "return tv_weight * ((a - c) ** 2 + (b - c) ** 2).sum()",
        "a row and a column are cut off",
    ),
    (
        "tv_loss",
        "print('tv')\nreturn tv_weight * (img.diff(dim=2).abs().sum() + img.diff(dim=3).abs().sum())",
        "absolute differences",
    ),
]
SLOW = [
    ("saliency_map", SALIENCY, ""),
    (
        "saliency_map",
        "model.eval()\nX.requires_grad_()\nmodel(X)[range(len(y)), y].sum().backward()\n"
        "return X.grad.abs().max(1)[0]",
        "",
    ),
    (
        "saliency_map",
        "model.eval()\nmaps = []\nfor x, label in zip(X, y):\n    x = x[None].clone().requires_grad_()\n"
        "    (g,) = torch.autograd.grad(model(x)[0, label], x)\n    maps.append(g.abs().max(1)[0])\n"
        "return torch.cat(maps)",
        "",
    ),
    ("saliency_map", SALIENCY.replace("g.abs()", "(g * X).abs()"), "differ"),
    ("saliency_map", SALIENCY.replace("g.abs()", "g.square()"), "differ"),
    ("saliency_map", SALIENCY.replace("y[:, None]", "y[:, None] + 1"), "differ"),
    (
        "saliency_map",
        SALIENCY.replace("scores.gather(1, y[:, None]).sum()", "scores[:, y].sum()"),
        "all labels",
    ),
    ("saliency_map", SALIENCY.replace("model.eval()", "model.train()"), "dropout is left on"),
    ("saliency_map", SALIENCY.replace(".sum(), X", "[0], X"), "right for photo 1 only"),
    (
        "saliency_map",
        SALIENCY.replace("amax(1)", "amax(1).roll((3, -5), (1, 2))"),
        "right, but shifted by 3 down and 5 to the left, in pixels",
    ),
    (
        "saliency_map",
        SALIENCY.replace("amax(1)", "amax(1).flip(2)"),
        "right, but left and right are exchanged",
    ),
    (
        "grad_cam",
        CAM.replace("return (maps", "maps = np.roll(maps, 9, 2)\nreturn (maps"),
        "right, but shifted by 9 to the right, in pixels",
    ),
    (
        "grad_cam",
        CAM.replace("Image.fromarray(m)", "Image.fromarray(m.T.copy())"),
        "height and width are exchanged before it is enlarged",
    ),
    (
        "saliency_map",
        SALIENCY.replace("return g.abs()", "X.grad = g\nmodel.x = nn.ReLU()\nreturn g"),
        "absolute value missing",
    ),
    ("fooling_image", FOOLING, ""),
    ("fooling_image", FOOLING.replace("model.eval()", "model.train()"), "dropout is left on"),
    (
        "fooling_image",
        FOOLING.replace("range(max_iter)", "range(3)"),
        "end before the network is fooled",
    ),
    ("fooling_image", FOOLING.replace("range(max_iter)", "range(100)"), "max_iter is ignored"),
    (
        "fooling_image",
        FOOLING.replace(
            "scores.argmax() ==", "scores.softmax(1).max() > 0.9 and scores.argmax() =="
        ),
        "go on when the network is fooled",
    ),
    ("fooling_image", FOOLING.replace("g / g.norm()", "g.sign()"), "differ"),
    (
        "fooling_image",
        FOOLING.replace("10 * g", "10 / (t + 1) * g"),
        "each step shorter than the one before",
    ),
    ("fooling_image", FOOLING.replace("    g.zero_()\n", ""), "gradients accumulated"),
    (
        "fooling_image",
        FOOLING.replace("scores.argmax() == target_y", "target_y in scores[0].topk(5)[1]"),
        "end before the network is fooled",
    ),
    ("fooling_image", "return X.clone()", "given back as it was"),
    ("class_visualization", GROWN, ""),
    (
        "class_visualization",
        GROWN.replace(" - l2 * (img ** 2).sum()", "")
        .replace("g = img.grad\n", "g = img.grad - 2 * l2 * img.data\n")
        .replace("g.zero_()", "img.grad = None"),
        "",
    ),
    ("class_visualization", GROWN.replace("rate * g", "rate ** 2 * g"), "differ"),
    ("class_visualization", GROWN.replace("(img ** 2)", "(img ** 4)"), "differ"),
    (
        "class_visualization",
        GROWN.replace("(img ** 2).sum()", "img.data.norm() ** 2"),
        "L2 term left out",
    ),
    ("class_visualization", GROWN.replace("g.norm()", "g.abs().max()"), "differ"),
    ("class_visualization", GROWN.replace("rate * g", "50 * g"), "the learning rate has no effect"),
    ("grad_cam", CAM, ""),
    ("grad_cam", CAM.replace('"nk,nkhw->nhw", g.mean((2, 3))', '"nkhw,nkhw->nhw", g'), "averaged"),
    ("grad_cam", CAM.replace("g.mean(", "g.abs().mean("), "absolute gradients as weights"),
    (
        "grad_cam",
        CAM.replace("g.mean((2, 3)), kept", "g.mean((2, 3)), kept.abs().sqrt()"),
        "differ",
    ),
]


@pytest.fixture(scope="module")
def expected():
    return check.Expected(check.EXPECTED)


@pytest.fixture(autouse=True)
def _scratch(tmp_path, monkeypatch):
    """A folder of one's own, and the packages are those of the solution."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.chdir(tmp_path / "scratch")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = dict(sys.modules)
    for name in [name for name in before if name.partition(".")[0] in EXPORTS]:
        del sys.modules[name]
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in EXPORTS]:
        del sys.modules[name]
    sys.modules.update(before)


def verdict(root, name: str, body: str, expected) -> check.Outcome:
    """Write a function's body into a file that holds nothing else, and judge it."""
    item, where = ITEMS[name], place("assignment", name)
    owner, _, function = where.name.rpartition(".")
    method = f"def {function}(self, {PARAMETERS[name]}):\n{textwrap.indent(body, '    ')}\n"
    source = f"import torch\nfrom torch import nn\n\nclass {owner}(nn.Module):\n"
    if name == "style_loss":
        source += (
            "    def gram_matrix(self, f):\n        return f.flatten(2) @ f.flatten(2).mT / 120\n"
        )
    (root / where.file).parent.mkdir()
    (root / where.file).write_text(source + textwrap.indent(method, "    "))
    solution = Solution(root, TABLE["assignment"])
    found = process._measured(name, solution)
    return check.judge(item, check.Measured(**found), expected, root)


@pytest.mark.parametrize(
    "name, body, said",
    [*QUICK, *(pytest.param(*row, marks=pytest.mark.slow) for row in SLOW)],
    ids=[f"{row[0]} {row[2] or 'right'} {i}" for i, row in enumerate([*QUICK, *SLOW])],
)
def test_a_verdict_and_what_it_says_are_true(name, body, said, expected, tmp_path):
    outcome = verdict(tmp_path, name, body, expected)
    assert (outcome.status == "ok") == (not said), outcome
    assert said in outcome.message, outcome


def test_enough_was_planted():
    assert sum(not said for *_, said in [*QUICK, *SLOW]) >= 15
    assert sum(bool(said) for *_, said in [*QUICK, *SLOW]) >= 30
