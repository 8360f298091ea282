"""The techniques as a textbook has them: plain modules, `.backward()`, hooks."""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import gaussian_filter1d
from torch import nn


def saliency(model, X, y):
    """Backward to everything, then the largest absolute gradient over the channels."""
    X = X.clone().requires_grad_()
    model(X).gather(1, y.view(-1, 1)).squeeze().sum().backward()
    return X.grad.abs().max(dim=1)[0]


class _GuidedFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        output = torch.addcmul(torch.zeros_like(x), x, (x > 0).type_as(x))
        ctx.save_for_backward(x)
        return output

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (x > 0).type_as(gradient) * (gradient > 0).type_as(gradient)


class _GuidedModule(nn.Module):
    def forward(self, x):
        return _GuidedFunction.apply(x)


def guided_backprop(model, X, y):
    """Copy the network and swap every ReLU."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, _GuidedModule())
    X = X.clone().requires_grad_()
    model(X).gather(1, y.view(-1, 1)).sum().backward()
    return X.grad.permute(0, 2, 3, 1).numpy()


def grad_cam(model, X, y):
    """Hooks on the last feature layer and a backward pass through everything."""
    kept = {}
    layer = model.features[12]
    hooks = [
        layer.register_forward_hook(lambda m, i, o: kept.update(activation=o.detach())),
        layer.register_full_backward_hook(lambda m, i, o: kept.update(gradient=o[0].detach())),
    ]
    X = X.clone().requires_grad_()
    model(X).gather(1, y.view(-1, 1)).sum().backward()
    for hook in hooks:
        hook.remove()
    weights = kept["gradient"].mean(dim=(2, 3), keepdim=True)
    maps = (weights * kept["activation"]).sum(dim=1).clamp(min=0).numpy()
    maps = np.stack(
        [
            np.array(Image.fromarray(m).resize(X.shape[:1:-1], Image.Resampling.BICUBIC))
            for m in maps
        ]
    )
    return (maps - maps.min()) / (maps.max() - maps.min())


def guided_grad_cam(model, X, y):
    """One after the other, then the product."""
    return guided_backprop(model, X, y) * grad_cam(model, X, y)[..., None]


def fooling(model, X, target, steps):
    """Take steps of length 10 up the target's score."""
    X = X.clone().requires_grad_()
    for _ in range(steps):
        scores = model(X)
        scores.argmax(dim=1).item()
        scores[0, target].backward()
        with torch.no_grad():
            X += 1e-9 * X.grad / X.grad.norm()
            X.grad.zero_()
    return X


def class_visualization(model, target, steps):
    """Run the hand-out's loop with NumPy's jitter and SciPy's blur, without plots."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    image = torch.randn(1, 3, 224, 224).requires_grad_()
    for t in range(steps):
        ox, oy = np.random.randint(0, 16, 2)
        image.data.copy_(_jitter(image.data, ox, oy))
        score = model(image)[0, target] - 1e-3 * (image**2).sum()
        score.backward()
        with torch.no_grad():
            image += 25 * image.grad / image.grad.norm()
            image.grad.zero_()
        image.data.copy_(_jitter(image.data, -ox, -oy))
        for c in range(3):
            image.data[:, c].clamp_(min=-mean[c] / std[c], max=(1 - mean[c]) / std[c])
        if t % 10 == 0:
            blurred = gaussian_filter1d(
                gaussian_filter1d(image.data.numpy(), 0.5, axis=2), 0.5, axis=3
            )
            image.data.copy_(torch.tensor(blurred))
    return image


def _jitter(X, ox, oy):
    if ox:
        X = torch.cat([X[:, :, :, -ox:], X[:, :, :, :-ox]], dim=3)
    if oy:
        X = torch.cat([X[:, :, -oy:], X[:, :, :-oy]], dim=2)
    return X


def style_steps(
    model,
    content,
    style,
    content_layer,
    content_weight,
    style_layers,
    style_weights,
    tv_weight,
    steps,
):
    """Run iterations of style transfer through all feature layers."""

    def features(x):
        kept = []
        for layer in model.features:
            x = layer(x.clone())
            kept.append(x)
        return kept

    def gram(f):
        n, c, h, w = f.shape
        f = f.contiguous().view(n, c, h * w)
        return torch.matmul(f, f.permute(0, 2, 1)) / (c * h * w)

    content_target = features(content)[content_layer].detach()
    style_targets = [gram(features(style)[layer]).detach() for layer in style_layers]
    image = content.clone().requires_grad_()
    optimizer = torch.optim.Adam([image], lr=3.0)
    for _ in range(steps):
        image.data.clamp_(-1.5, 1.5)
        optimizer.zero_grad()
        found = features(image)
        loss = content_weight * ((found[content_layer] - content_target) ** 2).sum()
        for layer, weight, target in zip(style_layers, style_weights, style_targets, strict=True):
            loss = loss + weight * ((gram(found[layer]) - target) ** 2).sum()
        loss = loss + tv_weight * (
            F.mse_loss(image[:, :, 1:], image[:, :, :-1], reduction="sum")
            + F.mse_loss(image[:, :, :, 1:], image[:, :, :, :-1], reduction="sum")
        )
        loss.backward()
        optimizer.step()
    return image
