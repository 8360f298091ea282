"""Right solutions as students might write them, and one mistake each in them, for the tests of
check and grader.

They are written otherwise than the package and than course/mistakes.py: backward() and hooks, loops
over photos, NumPy at the end, contiguous layout, PIL's resizing.
"""

import functools
import os
import socket
import subprocess
import sys
from pathlib import Path

import warm

import check
from checker import server
from collect_submission import zip_files
from course.make_starter import replace_body

ITEMS = {item.name: item for item in check.ITEMS}


def put(solution: Path, item: str, body: str) -> None:
    """Write another body into the function of an item."""
    item = ITEMS[item]
    path = solution / item.file
    path.write_text(replace_body(path.read_text(), item.measured or item.function, body))


RIGHT = {
    "saliency_map": """
maps = []
model.eval()
for photo, label in zip(X, y):
    photo = photo[None].clone().requires_grad_(True)
    score = model(photo)[0, label]
    score.backward()
    maps.append(np.abs(photo.grad[0].numpy()).max(axis=0))
return torch.from_numpy(np.stack(maps))
""",
    "custom_relu": """
(output,) = ctx.saved_tensors
gradient = gradient.clone()
gradient[gradient < 0] = 0
gradient[output == 0] = 0
return gradient
""",
    "guided_backprop": """
class Guided(nn.Module):
    def forward(self, x):
        return CustomReLU.apply(x)

X = X_tensor.detach().clone().contiguous().requires_grad_()
gc_model.eval()
swapped = []
for parent in list(gc_model.modules()):
    for name, child in list(parent.named_children()):
        if isinstance(child, nn.ReLU):
            swapped.append((parent, name, child))
            setattr(parent, name, Guided())
try:
    gc_model(X).gather(1, y_tensor.view(-1, 1)).sum().backward()
finally:
    for parent, name, child in swapped:
        setattr(parent, name, child)
return X.grad.permute(0, 2, 3, 1).numpy()
""",
    "grad_cam": """
from PIL import Image

kept = {}
module = gc_model.features[12]
handles = [
    module.register_forward_hook(lambda m, i, output: kept.update(activation=output.detach())),
    module.register_full_backward_hook(lambda m, i, gradients: kept.update(gradient=gradients[0])),
]
gc_model.eval()
X = X_tensor.detach().clone().requires_grad_()
score = gc_model(X).gather(1, y_tensor.view(-1, 1)).sum()
score.backward()
for handle in handles:
    handle.remove()
maps = []
for activation, gradient in zip(kept["activation"].numpy(), kept["gradient"].numpy()):
    weights = gradient.mean(axis=(1, 2))
    cam = np.einsum("k,khw->hw", weights, activation)
    cam = np.maximum(cam, 0)
    cam = np.array(Image.fromarray(cam).resize((X.shape[3], X.shape[2]), Image.Resampling.BICUBIC))
    maps.append(cam)
maps = np.stack(maps)
return (maps - maps.min()) / (maps.max() - maps.min())
""",
    "guided_grad_cam": """
guided = self.guided_backprop(X_tensor, y_tensor, gc_model)
cam = self.grad_cam(X_tensor, y_tensor, gc_model)
return guided * cam[..., None]
""",
    "fooling_image": """
model.eval()
fooling = X.clone()
for _ in range(max_iter):
    fooling = fooling.detach().requires_grad_()
    scores = model(fooling)
    if scores.data.max(1)[1][0] == target_y:
        break
    score = scores[0, target_y]
    score.backward()
    step = 10 * fooling.grad / fooling.grad.norm()
    fooling = fooling.detach() + step
return fooling.detach()
""",
    "class_visualization": """
from image_utils import SQUEEZENET_MEAN, SQUEEZENET_STD, deprocess

model.eval()
model.type(dtype)
l2_reg, learning_rate = kwargs.pop("l2_reg", 1e-3), kwargs.pop("learning_rate", 25)
blur_every, max_jitter = kwargs.pop("blur_every", 10), kwargs.pop("max_jitter", 16)
img = torch.randn(1, 3, 224, 224).mul_(1.0).type(dtype).requires_grad_()
for t in range(num_iterations):
    ox, oy = np.random.randint(0, max_jitter + 1), np.random.randint(0, max_jitter + 1)
    img.data.copy_(self.jitter(img.data, ox, oy))
    objective = model(img)[0, target_y] - l2_reg * (img**2).sum()
    objective.backward()
    img.data += learning_rate * img.grad / img.grad.norm()
    img.grad.zero_()
    img.data.copy_(self.jitter(img.data, -ox, -oy))
    for c in range(3):
        low = float(-SQUEEZENET_MEAN[c] / SQUEEZENET_STD[c])
        high = float((1.0 - SQUEEZENET_MEAN[c]) / SQUEEZENET_STD[c])
        img.data[:, c].clamp_(min=low, max=high)
    if t % blur_every == 0:
        self.blur_image(img.data, sigma=0.5)
return deprocess(img.data.clone().cpu())
""",
    "content_loss": """
error = torch.nn.functional.mse_loss(content_current, content_original, reduction="sum")
return content_weight * error
""",
    "gram_matrix": """
N, C, H, W = features.size()
gram = torch.einsum("nahw,nbhw->nab", features, features)
if normalize:
    gram = gram / float(C * H * W)
return gram
""",
    "style_loss": """
terms = [torch.zeros(())]
for layer, target, weight in zip(style_layers, style_targets, style_weights):
    gram = self.gram_matrix(feats[layer])
    terms.append(weight * torch.sum(torch.pow(gram - target, 2)))
return torch.stack(terms).sum()
""",
    "tv_loss": """
vertical = torch.diff(img, dim=2).pow(2).sum()
horizontal = torch.diff(img, dim=3).pow(2).sum()
return tv_weight * vertical + tv_weight * horizontal
""",
    "style_transfer": """
feats, content_img = features_from_img(content_image, image_size, cnn, dtype)
content_target = feats[content_layer].clone()
feats, style_img = features_from_img(style_image, style_size, cnn, dtype)
style_targets = [style_loss.gram_matrix(feats[idx].clone()) for idx in style_layers]
img = content_img.clone().type(dtype).requires_grad_()
optimizer = torch.optim.Adam([img], lr=3.0)
for t in range(200):
    if t < 190:
        img.data.clamp_(-1.5, 1.5)
    if t == 180:
        for group in optimizer.param_groups:
            group["lr"] = 0.1
    feats = extract_features(img, cnn)
    loss = content_loss.forward(content_weight, feats[content_layer], content_target)
    loss = loss + style_loss.forward(feats, style_layers, style_targets, style_weights)
    loss = loss + tv_loss.forward(img, tv_weight)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
return img
""",
}

LOSS = "torch.nn.functional.cross_entropy"
BOTH_INTO_ONE_GRADIENT = """
X_tensor.requires_grad_()
gc_model.eval()
cam = self.grad_cam(X_tensor, y_tensor, gc_model)
gc_model(X_tensor).gather(1, y_tensor.view(-1, 1)).sum().backward()
guided = self.guided_backprop(X_tensor, y_tensor, gc_model) + X_tensor.grad.permute(0, 2, 3, 1).numpy()
return guided * cam[..., None]
"""
LATE = """
model.eval()
fooling, fooled = X.clone(), False
while not fooled:
    fooling = fooling.detach().requires_grad_()
    scores = model(fooling)
    scores[0, target_y].backward()
    fooled = scores[0].argmax().item() == target_y
    fooling = fooling + 10 * fooling.grad / fooling.grad.norm()
return fooling.detach()
"""
TV_LOOPS = """
total = 0
for i in range(img.shape[2]):
    for j in range(img.shape[3]):
        if i + 1 < img.shape[2]:
            total = total + ((img[:, :, i + 1, j] - img[:, :, i, j]) ** 2).sum()
        if j + 1 < img.shape[3]:
            total = total + ((img[:, :, i, j + 1] - img[:, :, i, j]) ** 2).sum()
return tv_weight * total
"""

# Item → what is there (None: all of it), what takes its place, how the diagnosis reads.
BY_ITEM = {
    "saliency_map": (
        ("max(axis=0)", "sum(axis=0)", "sum instead of maximum over channels"),
        ("np.abs(photo.grad[0].numpy())", "photo.grad[0].numpy()", "absolute value missing"),
        ("model(photo)[0, label]", f"{LOSS}(model(photo), label[None])", "gradient of the loss"),
        (
            "model(photo)[0, label]",
            "model(photo).softmax(1)[0, label]",
            "gradient of the probability",
        ),
        ("model.eval()", "", "dropout is left on"),
        ("model.eval()", "model.eval()\nprint('maps')", "prints 'maps'"),
        ("photo.grad[0]", "photo.grad[0].mul_(3)", "3 times what they should be"),
        ("return torch", "model.classifier[1].weight.data *= 2\nreturn torch", "network is ruined"),
    ),
    "custom_relu": (
        ("gradient[output == 0] = 0", "", "guided rule without the forward mask"),
        ("gradient[gradient < 0] = 0", "", "only the forward mask"),
    ),
    "guided_backprop": (
        (
            "        setattr(parent, name, child)\nreturn",
            "        pass\nreturn",
            "network is ruined",
        ),
        ("CustomReLU.apply(x)", "x.relu()", "the guided rule is not in use"),
        ("gc_model.eval()", "", "dropout is left on"),
        (".permute(0, 2, 3, 1)", "", "(2, 96, 128, 3) was expected, got (2, 3, 96, 128)"),
    ),
    "grad_cam": (
        ("cam = np.maximum(cam, 0)", "", "ReLU missing"),
        ("cam = np.array(", "np.array(", "not enlarged"),
        (
            "(X.shape[3], X.shape[2])",
            "(X.shape[2], X.shape[3])",
            "height and width, or channels, are exchanged",
        ),
        ("    handle.remove()", "    pass", "hooks are left on it"),
        (
            "maps.append(cam)",
            "maps.append((cam - cam.min()) / np.ptp(cam))",
            "scaled to [0, 1] alone",
        ),
    ),
    "guided_grad_cam": ((None, BOTH_INTO_ONE_GRADIENT, "gradients accumulated"),),
    "fooling_image": (
        (None, LATE, "stops a step late"),
        ("10 * fooling.grad / fooling.grad.norm()", "10 * fooling.grad", "not brought to length 1"),
        (
            "scores[0, target_y]",
            f"-{LOSS}(scores, torch.tensor([target_y]))",
            "gradient of the loss, of the probability",
        ),
        ("return fooling", "X.copy_(fooling)\nreturn fooling", "is overwritten; work on a copy"),
    ),
    "class_visualization": (
        (" - l2_reg * (img**2).sum()", "", "L2 term left out"),
        ("- l2_reg", "+ l2_reg", "L2 term with the wrong sign"),
        ("model(img)[0, target_y]", "model(img).softmax(1)[0, target_y]", "gradient of the prob"),
        ("(img**2).sum()", "img.norm()", "norm not squared"),
        ("(img**2).sum()", "img.data.norm()", "L2 term left out"),
        ("img.grad.zero_()", "", "gradients accumulated"),
        ("learning_rate *", "", "the learning rate has no effect"),
        ("img.data +=", "img.data -=", "a step down instead of up"),
    ),
    "content_loss": (
        ("content_weight *", "content_weight ** 2 *", "weight squared"),
        ("content_weight *", "", "weight forgotten"),
        ("mse_loss", "l1_loss", "absolute differences instead of squares"),
    ),
    "gram_matrix": (
        ("if normalize:", "if False:", "Gram matrix not normalised"),
        ("float(C * H * W)", "float(H * W)", "divided by H·W"),
    ),
    "style_loss": (
        ("weight * torch", "weight**2 * torch", "weight squared"),
        ("weight * torch", "torch", "weight forgotten"),
        ("return torch.stack(terms).sum()", "return terms[-1]", "the last layer only"),
    ),
    "tv_loss": (
        (" + tv_weight * horizontal", "", "TV over one direction only"),
        (None, TV_LOOPS, "computed with loops"),
    ),
    "style_transfer": (
        ("if t == 180:", "if False:", "the learning rate is not 0.1"),
        ('["lr"] = 0.1', '["lr"] = 1.0', "the learning rate is not 0.1"),
        ("optimizer.zero_grad()", "", "gradients accumulated"),
        ("loss = loss + style_loss", "style_loss", "style left out"),
    ),
}
WRONG = [(item, *mistake) for item, mistakes in BY_ITEM.items() for mistake in mistakes]


class WarmServer(server.Server):
    """The check's server, forked from a Python that has imported torch."""

    def _begin_server(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(server.STARTING)
        with theirs:
            env = {**os.environ, **server.ALIKE}
            self._process = warm.Program(server.__file__, 0, stdin=theirs, env=env)


SERVER = check.SERVER = WarmServer()
POINTS = {item.name: item.editions["assignment"][1] for item in check.ITEMS}


def write(files: dict[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def run(*command: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    if command[0] == sys.executable:
        return warm.run(*command[1:], cwd=cwd, **environment)
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | environment,
    )


def points(folder: Path, items=check.ITEMS) -> dict[str, float]:
    """The points of every item that is ok."""
    return {o.name: POINTS[o.name] for o in check.check(folder, items) if o.status == "ok"}


def archive(files: dict[str, bytes], path: Path) -> Path:
    path.write_bytes(zip_files(files))
    return path


@functools.cache
def expected() -> check.Expected:
    return check.Expected(check.EXPECTED)


def outcome(solution: Path, name: str, patience: float = check.PATIENCE) -> check.Outcome:
    item = ITEMS[name]
    return check.judge(item, check.measure(item, solution, patience), expected(), solution)
