"""The mistakes that the check knows: for each item a right solution, and changes to it.

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
    "gradient of all scores instead of the labelled class's": (
        "scores.gather(1, labels[:, None]).sum()",
        "scores.sum()",
    ),
    "gradient of the scores of all labels, not of each photo's own": (
        "scores.gather(1, labels[:, None]).sum()",
        "scores[:, labels].sum()",
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

ENLARGED = 'torch.nn.functional.interpolate(low, images.shape[2:], mode="bicubic", antialias=True)'
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
for _ in range(max_iter):
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
    "guided_gram_matrix": """
n, r, c, h, w = features.shape
maps = (features * masks[:, :, None]).reshape(n, r, c, h * w)
gram = maps @ maps.transpose(2, 3)
return gram / (c * h * w) if normalize else gram
""",
    "guided_style_loss": """
loss = feats[0].new_zeros(())
for i, layer in enumerate(style_layers):
    gram = guided_gram_matrix(feats[layer], content_masks[layer])
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

# Item → what the mistake looks like → (what is there in the right solution, what takes its place).
MISTAKES = {
    "saliency_map": {
        "sum instead of maximum over channels": ("amax(dim=1)", "sum(dim=1)"),
        "mean instead of maximum over channels": ("amax(dim=1)", "mean(dim=1)"),
        "absolute value missing": ("gradient.abs()", "gradient"),
        "norm instead of maximum over channels": ("abs().amax(dim=1)", "norm(dim=1)"),
        "sum over channels before the absolute value": ("abs().amax(dim=1)", "sum(dim=1).abs()"),
        "the largest of all photos, for each": (
            "amax(dim=1)",
            "amax(dim=1).amax(0, True).expand(len(X), -1, -1)",
        ),
        "each map scaled to [0, 1]": (
            "return gradient.abs().amax(dim=1)",
            "m = gradient.abs().amax(dim=1)\n"
            "return (m - m.amin((1, 2), True)) / (m.amax((1, 2), True) - m.amin((1, 2), True))",
        ),
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
        "reshaped to (N, H, W, 3), not permuted: colours and places are mixed": (
            "permute(0, 2, 3, 1)",
            "reshape(len(images), *images.shape[2:], 3)",
        ),
        **SCORES,
    },
    "grad_cam": {
        "ReLU missing: negative evidence is kept": ("keepdim=True).relu()", "keepdim=True)"),
        "each map scaled to [0, 1] alone, not all together": (TOGETHER, ALONE),
        "not scaled to [0, 1]": (TOGETHER, ""),
        "the gradient is not averaged over the places": (
            "by_layer.mean(dim=(2, 3), keepdim=True)",
            "by_layer",
        ),
        "absolute gradients as weights": ("by_layer.mean(", "by_layer.abs().mean("),
        "the gradient's ReLU in the weights": ("by_layer.mean(", "by_layer.relu().mean("),
        "the largest gradient as weight, not the mean": (
            "by_layer.mean(dim=(2, 3), keepdim=True)",
            "by_layer.amax(dim=(2, 3), keepdim=True)",
        ),
        "the layer before it": (
            "activation = plain.features(images)\nscores = plain.classifier(activation).flatten(1)",
            "activation = plain.features[:12](images)\n"
            "scores = plain.classifier(plain.features[12](activation)).flatten(1)",
        ),
        "the absolute value instead of the ReLU": ("keepdim=True).relu()", "keepdim=True).abs()"),
        "the mean over the channels without weights": ("(weights * activation)", "activation"),
        "enlarged before the ReLU; what is positive comes first": (
            "keepdim=True).relu()\nhigh = torch.nn.functional.interpolate(low, ",
            "keepdim=True)\nhigh = (lambda *a, **b: torch.nn.functional.interpolate(*a, "
            "**b).relu())(low, ",
        ),
        "enlarged bilinearly; bicubic was asked for": (
            'mode="bicubic", antialias=True',
            'mode="bilinear"',
        ),
        "enlarged by another cubic kernel, such as scikit-image's; PIL's was asked for": (
            ENLARGED,
            "torch.stack([torch.from_numpy(__import__('skimage.transform').transform.resize("
            "one.detach().numpy(), (1, *images.shape[2:]), order=3)) for one in low])",
        ),
        "enlarged without interpolation": ('mode="bicubic", antialias=True', 'mode="nearest"'),
        "enlarged with align_corners: the outermost values stand on the outermost pixels": (
            "antialias=True",
            "align_corners=True",
        ),
        "height and width are exchanged before it is enlarged": (
            "dim=1, keepdim=True).relu()",
            "dim=1, keepdim=True).relu().mT",
        ),
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
        "gradient of the loss, of the probability or of the lead instead of the raw score": (
            "scores[0, target_y]",
            "scores.softmax(dim=1)[0, target_y]",
        ),
        "one step in all": ("range(max_iter)", "range(1)"),
        "two steps a turn": ("10 * gradient", "20 * gradient"),
        "steps too short: divided by the squared norm, or by another learning rate": (
            "gradient.norm()",
            "gradient.norm() ** 2",
        ),
        "gradients accumulated: those of the steps before are still there": (
            "(gradient,) = torch.autograd.grad(scores[0, target_y], image)",
            "gradient = torch.autograd.grad(scores[0, target_y], image)[0] + (_ and gradient)",
        ),
        "gradient of all scores": ("scores[0, target_y]", "scores.sum()"),
        "divided by the largest value, not by the norm": (
            "gradient.norm()",
            "gradient.abs().max()",
        ),
        "each step shorter than the one before": (
            "gradient / gradient.norm()",
            "gradient / (_ + 1) / gradient.norm()",
        ),
    },
    "class_visualization": {
        "L2 term left out": (" - 2 * l2_reg * image.detach()", ""),
        "L2 term with the wrong sign": ("by_score - 2", "by_score + 2"),
        "L2 term's derivative without the factor 2": ("- 2 * l2_reg", "- l2_reg"),
        "L2 norm not squared": ("image.detach()\n", "image.detach() / image.detach().norm() / 2\n"),
        "L2 term outside the step: subtracted whatever the learning rate": (
            "- 2 * l2_reg * image.detach()\n    image = image.detach()",
            "- 0\n    image = (1 - 2 * l2_reg) * image.detach()",
        ),
        "L2 term outside the step, without the factor 2": (
            "- 2 * l2_reg * image.detach()\n    image = image.detach()",
            "- 0\n    image = (1 - l2_reg) * image.detach()",
        ),
        "divided by the norm of the score's gradient alone, without the L2 term": (
            "rate * gradient / gradient.norm()",
            "rate * (by_score / by_score.norm() - 2 * l2_reg * image)",
        ),
        "image² in the place of 2 · image": (
            "2 * l2_reg * image.detach()",
            "l2_reg * image.detach() ** 2",
        ),
        "the penalty itself subtracted from the gradient, not its derivative": (
            "2 * l2_reg * image.detach()",
            "l2_reg * image.detach().square().sum()",
        ),
        "gradient of all scores": ("grad(scores[0, target_y]", "grad(scores.sum()"),
        "gradient of the highest score": ("grad(scores[0, target_y]", "grad(scores.max()"),
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
        "divided by H·W·C², or by another power": ("(c * h * w)", "(c * c * h * w)"),
        "divided by C instead of C·H·W": ("(c * h * w)", "c"),
        "divided by N instead of C·H·W": ("(c * h * w)", "n"),
        "normalised with normalize=False, and the other way round": (
            "if normalize",
            "if not normalize",
        ),
        "the same matrix for all images: the first one's": (
            "gram = matrix @ matrix.transpose(1, 2)",
            "gram = (matrix @ matrix.transpose(1, 2))[:1].expand(n, c, c)",
        ),
        "the sum over the images": (
            "gram = matrix @ matrix.transpose(1, 2)",
            "gram = (matrix @ matrix.transpose(1, 2)).sum(0, True).expand(n, c, c)",
        ),
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
        "layers in the order of feats, not of style_layers, as targets and weights are": (
            "enumerate(style_layers)",
            "enumerate(sorted(style_layers))",
        ),
        "on Gram matrices that are not normalised": (
            "self.gram_matrix(feats[layer])",
            "self.gram_matrix(feats[layer], False)",
        ),
        "the first layer only": (
            "return loss",
            "gram = self.gram_matrix(feats[style_layers[0]])\n"
            "return style_weights[0] * ((gram - style_targets[0]) ** 2).sum()",
        ),
        "the norm not squared": ("** 2).sum()", "** 2).sum() ** 0.5"),
    },
    "guided_gram_matrix": {
        "the masks left out": ("features * masks[:, :, None]", "features"),
        "divided by H·W instead of C·H·W": ("(c * h * w)", "(h * w)"),
        "divided by N·C·H·W instead of C·H·W": ("(c * h * w)", "(n * c * h * w)"),
        "divided by N·R·C·H·W instead of C·H·W": ("(c * h * w)", "(n * r * c * h * w)"),
        "not normalised": (" / (c * h * w) if normalize else gram", ""),
        "always normalised, also with normalize=False": (" if normalize else gram", ""),
        "the mask squared": ("* masks[:, :, None]", "* masks[:, :, None] ** 2"),
        "the mask on the Gram matrix's one side only": (
            "maps @ maps.t",
            "maps @ features.flatten(3).t",
        ),
        "divided by the mask's area": ("(c * h * w)", "(c * masks.sum((2, 3))[..., None, None])"),
    },
    "guided_style_loss": {
        "masks taken by the count of the layer, not by style_layers": (
            "content_masks[layer]",
            "content_masks[i]",
        ),
        "features taken by the count of the layer, not by style_layers": (
            "feats[layer]",
            "feats[i]",
        ),
        "weight squared": ("style_weights[i]", "style_weights[i] ** 2"),
        "weight forgotten": ("style_weights[i] *", ""),
        "mean instead of sum": ("** 2).sum()", "** 2).mean()"),
        "the last layer only: the terms are not added up": ("loss = loss +", "loss ="),
        "on Gram matrices that are not normalised": (
            "content_masks[layer])",
            "content_masks[layer], False)",
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
        "TV without the last row and column": (
            "img[:, :, 1:] - img[:, :, :-1]",
            "(img := img[..., :-1, :-1])[:, :, 1:] - img[:, :, :-1]",
        ),
        "differences at the same places only: a row and a column are cut off": (
            "return tv",
            "down = ((img[:, :, 1:, :-1] - img[:, :, :-1, :-1]) ** 2).sum()\n"
            "right = ((img[:, :, :-1, 1:] - img[:, :, :-1, :-1]) ** 2).sum()\nreturn tv",
        ),
        "the root of the sum": ("(down + right)", "(down + right) ** 0.5"),
        "the sum squared": ("(down + right)", "(down + right) ** 2"),
        "differences of pixels that are two apart": (
            "img[:, :, 1:] - img[:, :, :-1]",
            "img[:, :, 2:] - img[:, :, :-2]",
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
