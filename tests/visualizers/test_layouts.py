"""Grad-CAM where maps are tokens or have their channels last: against the same computed by hand,
and refused.
"""

import numpy as np
import pytest
import torch
from helpers import network_state, same_state
from networks import SIZE, swin, vit
from PIL import Image
from torch import nn
from torchvision import models
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

from errors import InputError
from model_utils import load_model
from visualizers import GradCam
from visualizers.layers import default_layer
from visualizers.layouts import CHANNELS_FIRST, Layout, layout_of


class Pooled(nn.Module):
    """Tokens without a class token, of which the mean is taken in the end."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 12, 8, 8)
        self.block = nn.TransformerEncoderLayer(12, 2, 24, batch_first=True, activation="gelu")
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 5)

    def forward(self, x):
        return self.head(self.norm(self.block(self.patches(x).flatten(2).mT)).mean(dim=1))


@pytest.fixture
def data():
    torch.manual_seed(1)
    return torch.randn(3, 3, SIZE, SIZE), torch.tensor([4, 0, 2])


def by_hand(
    activation: torch.Tensor, gradient: torch.Tensor, h: int, w: int, size=(SIZE, SIZE)
) -> np.ndarray:
    """Equations 1 and 2 for vectors (N, h·w, C) of the patches in rows, enlarged by PIL, scaled
    over the batch.
    """
    activation, gradient = activation.detach().numpy(), gradient.numpy()
    maps = np.maximum((gradient.mean(axis=1, keepdims=True) * activation).sum(axis=2), 0).reshape(
        -1, h, w
    )
    maps = np.stack(
        [np.asarray(Image.fromarray(m).resize(size[::-1], Image.Resampling.BICUBIC)) for m in maps]
    )
    assert maps.max() > 0
    return (maps - maps.min()) / (maps.max() - maps.min())


# --- Against the same by hand ---


@pytest.mark.parametrize("block", [0, 2])
def test_vit(data, block):
    """The network's evaluation is repeated step by step, so that the norm's output is at hand."""
    model, (X, y) = vit(), data
    x = model.conv_proj(X).flatten(2).mT
    x = torch.cat([model.class_token.expand(3, -1, -1), x], dim=1) + model.encoder.pos_embedding
    for i, layer in enumerate(model.encoder.layers):
        normed = layer.ln_1(x)
        if i == block:
            kept = normed = normed.detach().requires_grad_()
            x = x.detach()  # the gradient by the norm's output does not pass here
        x = x + layer.self_attention(normed, normed, normed, need_weights=False)[0]
        x = x + layer.mlp(layer.ln_2(x))
    scores = model.heads(model.encoder.ln(x)[:, 0])
    (gradient,) = torch.autograd.grad(scores.gather(1, y[:, None]).sum(), kept)
    expected = by_hand(kept[:, 1:], gradient[:, 1:], 4, 4)
    before, ours = network_state(model), GradCam()
    cam = ours.grad_cam(X, y, model, layer=f"encoder.layers.encoder_layer_{block}.ln_1")
    assert np.allclose(cam, expected, atol=1e-4)
    assert torch.allclose(ours.gradient_value, gradient[:, 1:].mT.unflatten(2, (4, 4)), atol=1e-6)
    assert same_state(before, network_state(model))
    if block == 2:  # the last block's norm before attention is the default
        assert np.array_equal(GradCam().grad_cam(X, y, model), cam)


def test_swin(data):
    model, (X, y) = swin(), data
    kept = model.norm(model.features(X)).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(
        model.head(kept.mean(dim=(1, 2))).gather(1, y[:, None]).sum(), kept
    )
    assert kept.shape == (3, 4, 4, 16)
    expected = by_hand(kept.flatten(1, 2), gradient.flatten(1, 2), 4, 4)
    assert np.allclose(GradCam().grad_cam(X, y, model), expected, atol=1e-4)
    # The same, laid out
    assert np.allclose(GradCam().grad_cam(X, y, model, layer="permute"), expected, atol=1e-4)


def test_tokens_without_a_class_token(data):
    model, (X, y) = Pooled().eval(), data
    kept = model.norm(model.block(model.patches(X).flatten(2).mT)).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(
        model.head(kept.mean(dim=1)).gather(1, y[:, None]).sum(), kept
    )
    assert default_layer(model, X).name == "norm"
    assert np.allclose(GradCam().grad_cam(X, y, model), by_hand(kept, gradient, 4, 4), atol=1e-4)


def test_pictures_that_are_not_square():
    """Rows and columns are not exchanged: 6×3 places, for tokens and for channels last."""
    torch.manual_seed(1)
    X, y, model = torch.randn(2, 3, 48, 24), torch.tensor([1, 3]), Pooled().eval()
    kept = model.norm(model.block(model.patches(X).flatten(2).mT)).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(
        model.head(kept.mean(dim=1)).gather(1, y[:, None]).sum(), kept
    )
    expected = by_hand(kept, gradient, 6, 3, (48, 24))
    assert np.allclose(GradCam().grad_cam(X, y, model), expected, atol=1e-4)
    small = swin(window_size=[3, 3])
    assert layout_of(small, small.features[1], X) == Layout("channels last")


# --- torchvision's networks ---

# As vit_b_16, swin_t and swin_v2_t, with fewer channels; and maxvit_t.
PATCHES = {"patch_size": [4, 4], "embed_dim": 12, "num_heads": [1, 2, 2, 4], "window_size": [7, 7]}
TRANSFORMERS = {
    "vit": lambda: vit(image_size=224, patch_size=16, num_layers=12),
    "swin": lambda: models.SwinTransformer(**PATCHES, depths=[2, 2, 2, 2], num_classes=5),
    "swin_v2": lambda: models.SwinTransformer(
        **PATCHES,
        depths=[2, 2, 2, 2],
        num_classes=5,
        block=SwinTransformerBlockV2,
        downsample_layer=PatchMergingV2,
    ),
    "maxvit": lambda: load_model("maxvit_t", "none", "cpu"),
}


@pytest.mark.parametrize(
    ("arch", "name", "layout"),
    [
        ("vit", "encoder.layers.encoder_layer_11.ln_1", Layout("tokens", 16, 1)),
        ("swin", "norm", Layout("channels last")),
        ("swin_v2", "norm", Layout("channels last")),
        pytest.param("maxvit", "blocks.3", CHANNELS_FIRST, marks=pytest.mark.slow),
    ],
)
def test_default_layers_of_torchvision_s_transformers(arch, name, layout, batch):
    torch.manual_seed(0)
    model, X = TRANSFORMERS[arch]().eval(), batch[0][:1]
    y = model(X).argmax(dim=1)  # of a class with a low score, the map of random weights may be zero
    layer = default_layer(model, X)
    assert (layer.name, layer.layout) == (name, layout)
    cam = GradCam().grad_cam(X, y, model, layer)
    assert cam.max() == 1 and cam.std() > 0.05
    outputs = []  # the module's own output, by a hook of this test's, gives the same map
    handle = layer.module.register_forward_hook(lambda *args: outputs.append(args[2]))
    score = model(X.clone().requires_grad_())[0, y[0]]
    handle.remove()
    (gradient,) = torch.autograd.grad(score, outputs[0])
    maps = [layout.maps(t, X.shape[2:]) for t in (outputs[0], gradient)]
    assert np.allclose(
        cam, by_hand(*(m.flatten(2).mT for m in maps), *maps[0].shape[2:], (224, 224)), atol=2e-3
    )


# --- What is not recognised is refused ---


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("encoder", "patches have no influence"),
        ("encoder.ln", "patches have no influence .* last block's norm before attention"),
        (
            "encoder.layers.encoder_layer_0.self_attention",
            r"layer must give feature maps .*got tuple",
        ),
        ("encoder.layers.encoder_layer_0.self_attention.out_proj", "never evaluated"),
        ("heads", r"got \(3, 5\) for images \(3, 3, 32, 32\)"),
    ],
)
def test_refused_of_a_vit(data, layer, message):
    with pytest.raises(InputError, match=message):
        GradCam().grad_cam(*data, vit(), layer=layer)


class Sequence(nn.Module):
    """Gives what `arrange` makes of 4×4 feature maps through a layer of its own, `out`; `channels`
    of them.
    """

    def __init__(self, channels: int, arrange):
        super().__init__()
        self.conv, self.out, self.head = (
            nn.Conv2d(3, channels, 8, 8),
            nn.Identity(),
            nn.Linear(channels, 5),
        )
        self.arrange = arrange

    def forward(self, x):
        maps = self.conv(x)
        return self.head(maps.mean(dim=(2, 3)) + self.out(self.arrange(maps)).mean())


@pytest.mark.parametrize(
    ("channels", "arrange"),
    [
        (7, lambda m: m.flatten(2)),  # (N, C, L): 7 is no number of patches
        (7, lambda m: m.flatten(2).permute(2, 0, 1)),  # (L, N, C)
        (7, lambda m: torch.cat([m.flatten(2).mT] * 2, dim=1)),  # twice as many
        (16, lambda m: m.flatten(2)),  # (N, 16, 16), which might be tokens
        (7, lambda m: m.flatten(2).mT[:, None]),  # (N, 1, L, C), as of heads of attention
        (7, lambda m: m[..., None]),
        (7, lambda m: m.mT.flatten(2).mT),  # columns first
        # By the place in a window of 2×2 first, as in Hiera's early blocks
        (
            7,
            lambda m: (
                m.unflatten(3, (2, 2)).unflatten(2, (2, 2)).permute(0, 3, 5, 2, 4, 1).flatten(1, 4)
            ),
        ),
        # Weights of attention
        (7, lambda m: (m.flatten(2).mT @ m.flatten(2)).softmax(dim=-1)[:, None]),
    ],
)
def test_sequences_that_cannot_be_told(data, channels, arrange):
    with pytest.raises(InputError, match="layer must give"):
        GradCam().grad_cam(*data, Sequence(channels, arrange).eval(), layer="out")


@pytest.mark.parametrize(("before", "after"), [(0, 1), (1, 4), (5, 0), (0, 8)])
def test_registers_and_a_class_token_before_or_after_the_patches(data, before, after):
    def arrange(m):
        patches, more = m.flatten(2).mT, m.mean(dim=(2, 3))[:, None]
        return torch.cat([more.expand(-1, before, -1), patches, more.expand(-1, after, -1)], dim=1)

    model = Sequence(7, arrange).eval()
    assert layout_of(model, model.out, data[0]) == Layout("tokens", 8, before, after)


def test_tokens_that_pooling_has_moved_by_a_place():
    def moved(by: int, more: int = 0):
        def arrange(m):
            patches = nn.functional.pad(m[..., by:, by:], (0, by, 0, by)).flatten(2).mT
            return torch.cat([patches, patches[:, :more]], dim=1)

        return Sequence(7, arrange).eval()

    X, model = torch.randn(1, 3, 64, 64), moved(1)
    assert layout_of(model, model.out, X) == Layout("tokens", 8)
    for model in (moved(2), moved(1, 1)):  # with more tokens, it could as well be one of these
        with pytest.raises(InputError, match="layer must give"):
            layout_of(model, model.out, X)


class Mixed(nn.Module):
    """Patches through blocks without a class token, and without any norm that is called so."""

    def __init__(self, norm: type[nn.Module], blocks: int = 3):
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.head = nn.Conv2d(3, 12, 8, 8), nn.Linear(12, 5)
        self.blocks = nn.Sequential(
            *(nn.Sequential(norm(12), nn.Linear(12, 12)) for _ in range(blocks))
        )

    def forward(self, x):
        return self.head(self.blocks(self.patches(x).flatten(2).mT).mean(dim=1))


class Affine(nn.Linear):
    """Another name for a norm, as in ResMLP."""

    def __init__(self, channels: int):
        super().__init__(channels, channels)


def test_without_norms_the_last_layer_with_patches_is_the_default(data):
    assert default_layer(Mixed(nn.LayerNorm).eval(), data[0]).name == "blocks.2.0"
    assert default_layer(Mixed(Affine).eval(), data[0]).name == "blocks"


def test_a_network_that_is_not_trained_is_refused_after_few_tries(data):
    model, seen = Mixed(nn.LayerNorm, 40).eval(), []
    nn.init.zeros_(model.head.weight)  # as timm's are before training
    model.blocks[20].register_forward_hook(lambda *_: seen.append(1))
    with pytest.raises(InputError, match=r"no norm .* influence"):
        default_layer(model, data[0])
    assert len(seen) < 50


def test_as_many_channels_as_rows_and_columns(data):
    """Both axes could be the width; a wider picture tells."""
    X, _ = data
    for arrange, kind in (
        (lambda m: m, "channels first"),
        (lambda m: m.permute(0, 2, 3, 1), "channels last"),
    ):
        model = Sequence(4, arrange).eval()
        assert layout_of(model, model.out, X) == Layout(kind)
    square = swin(embed_dim=4, num_heads=[1, 2])  # 8×8 places of 4 channels, then 4×4 of 8
    assert layout_of(square, square.features[2], X) == Layout("channels last")
    fixed = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 5))
    assert layout_of(fixed, fixed[1], X) == CHANNELS_FIRST  # though it takes no other size


def test_maps_of_a_single_pixel_are_refused_or_passed_over(bundled_model):
    torch.manual_seed(0)
    X, y = torch.randn(1, 3, 32, 32), torch.tensor([3])
    assert bundled_model.features(X).shape[2:] == (1, 1)
    with pytest.raises(InputError, match="maps of a single pixel"):
        GradCam().grad_cam(X, y, bundled_model, layer="features.12")
    layer = default_layer(bundled_model, X)
    assert layer.name.startswith("features.") and GradCam().grad_cam(X, y, bundled_model).max() == 1
    X = torch.randn(1, 3, 60, 60)  # still 3×3
    assert default_layer(bundled_model, X).module is bundled_model.features[12]


def test_a_layer_of_a_damaged_network_is_refused(data):
    model = vit()
    with torch.no_grad():
        model.conv_proj.weight[0, 0] = torch.nan
    with pytest.raises(InputError, match="damaged"):
        GradCam().grad_cam(*data, model, layer="encoder.layers.encoder_layer_0.ln_1")


# --- Layouts ---


def test_layouts_are_views_and_back():
    size, output = torch.Size((24, 32)), torch.randn(2, 1 + 12 + 2, 5)
    layout = Layout("tokens", 8, 1, 2)
    maps = layout.maps(output, size)
    assert maps.shape == (2, 5, 3, 4) and torch.equal(maps[0, :, 1, 2], output[0, 1 + 4 + 2])
    assert torch.equal(layout.output(maps, output), output)
    with pytest.raises(InputError, match="14 tokens"):
        layout.maps(output[:, :14], size)
    layout = Layout("channels last")
    output = torch.randn(2, 3, 4, 5)
    assert torch.equal(layout.maps(output, size)[0, :, 1, 2], output[0, 1, 2])
    assert torch.equal(layout.output(layout.maps(output, size), output), output)
