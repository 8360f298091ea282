"""The mistakes that `check.py` knows: for each item a right solution, and what to change in it to
make one of them.

`make_expected.py` stores what they give; only these values go to the students, not this file.
"""

SCORES = {
    "gradient of the loss instead of the raw score": (
        "scores.gather(1, labels[:, None]).sum()",
        "torch.nn.functional.cross_entropy(scores, labels)",
    ),
    "gradient of the probability instead of the raw score": (
        "scores.gather(1, labels[:, None]).sum()",
        "scores.softmax(dim=1).gather(1, labels[:, None]).sum()",
    ),
    "gradient of the highest score instead of the labelled class's": (
        "scores.gather(1, labels[:, None]).sum()",
        "scores.amax(dim=1).sum()",
    ),
}

# A ReLU of the guided kind in the place of every other one, in a copy of the network.
GUIDED = """
import copy

class Guided(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.relu()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g.clamp(min=0) * (x > 0)

class GuidedReLU(nn.Module):
    def forward(self, x):
        return Guided.apply(x)

def exchange(module, deep=True):
    for name, child in module.named_children():
        if isinstance(child, nn.ReLU):
            setattr(module, name, GuidedReLU())
        elif deep or isinstance(child, nn.Sequential):
            exchange(child, deep)

guided = copy.deepcopy(gc_model).eval()
exchange(guided)
labels = y_tensor
images = X_tensor.detach().clone().requires_grad_()
scores = guided(images)
score = scores.gather(1, labels[:, None]).sum()
(gradient,) = torch.autograd.grad(score, images)
"""

CAM = """
import copy
labels = y_tensor
plain = copy.deepcopy(gc_model).eval()
images = X_tensor.detach().clone().requires_grad_()
activation = plain.features(images)
scores = plain.classifier(activation).flatten(1)
score = scores.gather(1, labels[:, None]).sum()
(by_layer,) = torch.autograd.grad(score, activation, retain_graph=True)
weights = by_layer.mean(dim=(2, 3), keepdim=True)
low = (weights * activation).sum(dim=1, keepdim=True).relu()
high = torch.nn.functional.interpolate(low, images.shape[2:], mode="bicubic", antialias=True)
cam = high[:, 0]
cam = (cam - cam.min()) / (cam.max() - cam.min())
"""

ALONE = "cam = (cam - cam.amin((1, 2), True)) / (cam.amax((1, 2), True) - cam.amin((1, 2), True))"
TOGETHER = "cam = (cam - cam.min()) / (cam.max() - cam.min())"

RIGHT = {
    "saliency_map": """
import copy
labels = y
images = X.detach().clone().requires_grad_()
network = copy.deepcopy(model).eval()
scores = network(images)
(gradient,) = torch.autograd.grad(scores.gather(1, labels[:, None]).sum(), images)
return gradient.abs().amax(dim=1)
""",
    "custom_relu": """
(output,) = ctx.saved_tensors
return gradient.relu() * (output > 0)
""",
    "guided_backprop": GUIDED + "return gradient.permute(0, 2, 3, 1).numpy()",
    "grad_cam": CAM + "return cam.detach().numpy()",
    "guided_grad_cam": CAM
    + GUIDED
    + "return (gradient * cam[:, None]).detach().permute(0, 2, 3, 1).numpy()",
    "fooling_image": """
import copy
network = copy.deepcopy(model).eval()
image = X.detach().clone().requires_grad_()
for _ in range(100):
    scores = network(image)
    if scores.argmax() == target_y:
        break
    (gradient,) = torch.autograd.grad(scores[0, target_y], image)
    image = (image + 10 * gradient / gradient.norm()).detach().requires_grad_()
return image.detach()
""",
    "class_visualization": """
from image_utils import SQUEEZENET_MEAN, SQUEEZENET_STD, deprocess

image = torch.randn(1, 3, 224, 224)
low, high = (-SQUEEZENET_MEAN / SQUEEZENET_STD), ((1 - SQUEEZENET_MEAN) / SQUEEZENET_STD)
low, high = (torch.from_numpy(bound).view(1, 3, 1, 1) for bound in (low, high))
model.eval()
l2_reg, rate, blur_every = kwargs["l2_reg"], kwargs["learning_rate"], kwargs["blur_every"]
gradient = torch.zeros_like(image)
for t in range(num_iterations):
    image = image.detach().requires_grad_()
    scores = model(image)
    (by_score,) = torch.autograd.grad(scores[0, target_y], image)
    gradient = by_score - 2 * l2_reg * image.detach()
    image = image.detach() + rate * gradient / gradient.norm()
    image = torch.minimum(torch.maximum(image, low), high)
    if t % blur_every == 0:
        image = self.blur_image(image, 0.5)
return deprocess(image, should_rescale=False)
""",
    "content_loss": "return content_weight * ((content_current - content_original) ** 2).sum()",
    "gram_matrix": """
n, c, h, w = features.shape
matrix = features.reshape(n, c, h * w)
gram = matrix @ matrix.transpose(1, 2)
return gram / (c * h * w) if normalize else gram
""",
    "style_loss": """
loss = feats[0].new_zeros(())
for i, layer in enumerate(style_layers):
    gram = self.gram_matrix(feats[layer])
    loss = loss + style_weights[i] * ((gram - style_targets[i]) ** 2).sum()
return loss
""",
    "tv_loss": """
down = ((img[:, :, 1:] - img[:, :, :-1]) ** 2).sum()
right = ((img[..., 1:] - img[..., :-1]) ** 2).sum()
return tv_weight * (down + right)
""",
    "style_transfer": """
network = list(cnn.children())
content_img = preprocess(Image.open(content_image), image_size)
style_img = preprocess(Image.open(style_image), style_size)
features = lambda x: [x := layer(x) for layer in network]
content_target = features(content_img)[content_layer]
style_targets = [style_loss.gram_matrix(features(style_img)[layer]) for layer in style_layers]
img = content_img.clone().requires_grad_()
optimizer = torch.optim.Adam([img], lr=3.0)
for t in range(200):
    if t < 190:
        img.data.clamp_(-1.5, 1.5)
    feats = features(img)
    content = content_loss(content_weight, feats[content_layer], content_target)
    style = style_loss(feats, style_layers, style_targets, style_weights)
    tv = tv_loss(img, tv_weight)
    optimizer.zero_grad()
    (content + style + tv).backward()
    optimizer.step()
    if t == 180:
        optimizer = torch.optim.Adam([img], lr=0.1)
return img.detach()
""",
}

# Item → where the right solution goes, where that is not the function that our starter blanks.
PLACES = {"class_visualization": "ClassVisualization.create_class_visualization"}

# Item → what the mistake looks like → (what is there in the right solution, what takes its place).
MISTAKES = {
    "saliency_map": {
        "sum instead of maximum over channels": ("amax(dim=1)", "sum(dim=1)"),
        "mean instead of maximum over channels": ("amax(dim=1)", "mean(dim=1)"),
        "absolute value missing": ("gradient.abs()", "gradient"),
        "absolute value taken after the maximum, not before it": (
            "abs().amax(dim=1)",
            "amax(dim=1).abs()",
        ),
        **SCORES,
    },
    "custom_relu": {
        "guided rule without the forward mask": (" * (output > 0)", ""),
        "only the forward mask: that is the plain gradient": ("gradient.relu()", "gradient"),
    },
    "guided_backprop": {
        "guided rule without the forward mask": (" * (x > 0)", ""),
        "the plain gradient: the guided rule is not in use": ("g.clamp(min=0)", "g"),
        "the ReLUs inside the Fire modules are not guided": (
            "exchange(guided)",
            "exchange(guided, deep=False)",
        ),
        **SCORES,
    },
    "grad_cam": {
        "ReLU missing: negative evidence is kept": ("keepdim=True).relu()", "keepdim=True)"),
        "each map scaled to [0, 1] alone, not all together": (TOGETHER, ALONE),
        "not scaled to [0, 1]": (TOGETHER, ""),
        "enlarged before the ReLU; what is positive comes first": (
            "keepdim=True).relu()\nhigh = torch.nn.functional.interpolate(low, ",
            "keepdim=True)\nhigh = (lambda *a, **b: torch.nn.functional.interpolate(*a, "
            "**b).relu())(low, ",
        ),
        "enlarged bilinearly; bicubic was asked for": (
            'mode="bicubic", antialias=True',
            'mode="bilinear"',
        ),
        "enlarged without interpolation": ('mode="bicubic", antialias=True', 'mode="nearest"'),
        **SCORES,
    },
    "guided_grad_cam": {
        "gradients accumulated: those of Grad-CAM's backward pass are in it": (
            "return (gradient",
            "return ((gradient + torch.autograd.grad(plain(images).gather(1, labels[:, "
            "None]).sum(), images)[0])",
        ),
        "the plain gradient instead of guided backprop": (
            "g.clamp(min=0) * (x > 0)",
            "g * (x > 0)",
        ),
        "guided rule without the forward mask": (" * (x > 0)", ""),
        "Grad-CAM's ReLU missing": ("keepdim=True).relu()", "keepdim=True)"),
        "each Grad-CAM map scaled to [0, 1] alone, not all together": (TOGETHER, ALONE),
    },
    "fooling_image": {
        "stops a step late: look whether the network is fooled before the step": (
            "return image.detach()",
            "gradient = torch.autograd.grad(network(image)[0, target_y], image)[0]\n"
            "return (image + 10 * gradient / gradient.norm()).detach()",
        ),
        "the gradient is not brought to length 1": (
            "10 * gradient / gradient.norm()",
            "10 * gradient",
        ),
        # Both have the same direction.
        "gradient of the loss or of the probability instead of the raw score": (
            "scores[0, target_y]",
            "scores.softmax(dim=1)[0, target_y]",
        ),
        "one step in all": ("range(100)", "range(1)"),
    },
    "class_visualization": {
        "L2 term left out": (" - 2 * l2_reg * image.detach()", ""),
        "L2 term with the wrong sign": ("by_score - 2", "by_score + 2"),
        "L2 term's derivative without the factor 2": ("- 2 * l2_reg", "- l2_reg"),
        "L2 norm not squared": ("image.detach()\n", "image.detach() / image.detach().norm() / 2\n"),
        "gradients accumulated: those of the steps before are still there": (
            "gradient = by",
            "gradient = gradient + by",
        ),
        "gradient of the loss instead of the raw score": (
            "grad(scores[0, target_y]",
            "grad(-torch.nn.functional.cross_entropy(scores, torch.tensor([target_y]))",
        ),
        "gradient of the probability instead of the raw score": (
            "grad(scores[0, target_y]",
            "grad(scores.softmax(dim=1)[0, target_y]",
        ),
        "the gradient is not brought to length 1": (
            "rate * gradient / gradient.norm()",
            "rate * gradient",
        ),
        "divided by the squared norm": ("/ gradient.norm()", "/ gradient.norm() ** 2"),
        "a step down instead of up": ("image.detach() + rate", "image.detach() - rate"),
    },
    "content_loss": {
        "weight squared": ("content_weight *", "content_weight**2 *"),
        "weight forgotten": ("content_weight *", ""),
        "mean instead of sum": (".sum()", ".mean()"),
        "absolute differences instead of squares": ("** 2).sum()", ").abs().sum()"),
        "half of what it should be": ("content_weight *", "content_weight / 2 *"),
    },
    "gram_matrix": {
        "Gram matrix not normalised": (" / (c * h * w) if normalize else gram", ""),
        "always normalised, also with normalize=False": (" if normalize else gram", ""),
        "divided by H·W instead of C·H·W": ("(c * h * w)", "(h * w)"),
        "divided by N·C·H·W instead of C·H·W": ("(c * h * w)", "(n * c * h * w)"),
        "features reshaped so that channels and positions are mixed": (
            "features.reshape(n, c, h * w)",
            "features.permute(0, 2, 3, 1).reshape(n, c, h * w)",
        ),
    },
    "style_loss": {
        "weight squared": ("style_weights[i]", "style_weights[i] ** 2"),
        "weight forgotten": ("style_weights[i] *", ""),
        "mean instead of sum": ("** 2).sum()", "** 2).mean()"),
        "absolute differences instead of squares": ("** 2).sum()", ").abs().sum()"),
        "the last layer only: the terms are not added up": ("loss = loss +", "loss ="),
        "features taken by the count of the layer, not by style_layers": (
            "feats[layer]",
            "feats[i]",
        ),
    },
    "tv_loss": {
        "TV over one direction only: the horizontal differences are missing": (
            "(down + right)",
            "down",
        ),
        "TV over one direction only: the vertical differences are missing": (
            "(down + right)",
            "right",
        ),
        "weight squared": ("tv_weight *", "tv_weight**2 *"),
        "weight forgotten": ("tv_weight *", ""),
        "absolute differences instead of squares": ("** 2).sum()", ").abs().sum()"),
        "mean instead of sum": ("** 2).sum()", "** 2).mean()"),
    },
    "style_transfer": {
        "gradients accumulated: those of the last step are still there": (
            "optimizer.zero_grad()",
            "",
        ),
        "content left out": ("(content + style + tv)", "(style + tv)"),
        "style left out": ("(content + style + tv)", "(content + tv)"),
        "total variation left out": ("(content + style + tv)", "(content + style)"),
        "a step up instead of down": ("(content + style + tv)", "(-content - style - tv)"),
    },
}
