"""Compute data/reference_values.npz: what the losses must give, by NumPy in float64 alone.

    python data/make_reference_values.py

The network's first layers, the losses and the Gram matrix are written out here a second time,
without torch and without a line of the modules that they check: convolutions as sums of shifted
products, pooling as a maximum of shifts. Only the bundled weights and the two pictures are the
same. The four values are those of the course's checks, with scikit-image's cat as the content and
the first painting as the style.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from files.atomic import atomic_write
from files.bundled_weights import bundled_state
from files.course import package_file

FOLDER = Path(__file__).resolve().parent
SIZE = 192  # pixels of the short side
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CONTENT_LAYER, CONTENT_WEIGHT = 3, 6e-2
GRAM_LAYER = 5
STYLE_LAYERS, STYLE_WEIGHTS = (1, 4, 6, 7), (300000, 1000, 15, 3)
TV_WEIGHT = 2e-2


def picture(path: Path) -> np.ndarray:
    """Read a picture as (3, H, W), its short side brought to SIZE (bilinear), normalised."""
    image = Image.open(path).convert("RGB")
    short = min(image.size)
    image = image.resize(
        [int(SIZE * side / short) for side in image.size], Image.Resampling.BILINEAR
    )
    pixels = np.asarray(image, dtype=np.float64) / 255
    return ((pixels - MEAN) / STD).transpose(2, 0, 1)


def convolution(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int = 1, padding: int = 0
) -> np.ndarray:
    """Convolve (C, H, W) with (K, C, h, w): (K, H', W'), a product per place in the kernel."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    rows, columns = ((x.shape[i + 1] - weight.shape[i + 2]) // stride + 1 for i in (0, 1))
    total = np.zeros((len(weight), rows, columns)) + bias[:, None, None]
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            shifted = x[:, i : i + stride * rows : stride, j : j + stride * columns : stride]
            total += np.tensordot(weight[:, :, i, j], shifted[:, :rows, :columns], axes=1)
    return total


def pooling(x: np.ndarray) -> np.ndarray:
    """Take the largest of 3×3, every second place; at the far borders of what is there."""
    rows, columns = (-(-(side - 3) // 2) + 1 for side in x.shape[1:])
    x = np.pad(x, ((0, 0), (0, 2), (0, 2)), constant_values=-np.inf)
    shifts = [
        x[:, i : i + 2 * rows : 2, j : j + 2 * columns : 2] for i in range(3) for j in range(3)
    ]
    return np.max([shift[:, :rows, :columns] for shift in shifts], axis=0)


def features(x: np.ndarray, weights: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Return the outputs of SqueezeNet 1.1's layers features[0] to features[7]."""

    def conv(x: np.ndarray, name: str, **kwargs) -> np.ndarray:
        return convolution(
            x, weights[f"features.{name}.weight"], weights[f"features.{name}.bias"], **kwargs
        )

    def fire(x: np.ndarray, index: int) -> np.ndarray:
        squeezed = np.maximum(conv(x, f"{index}.squeeze"), 0)
        wide = conv(squeezed, f"{index}.expand1x1"), conv(squeezed, f"{index}.expand3x3", padding=1)
        return np.maximum(np.concatenate(wide), 0)

    found = [conv(x, "0", stride=2)]
    found.append(np.maximum(found[-1], 0))
    found.append(pooling(found[-1]))
    found += [fire(found[-1], 3)]
    found += [fire(found[-1], 4)]
    found.append(pooling(found[-1]))
    found += [fire(found[-1], 6)]
    found += [fire(found[-1], 7)]
    return found


def gram(f: np.ndarray) -> np.ndarray:
    """Inner products of the channels, divided by the number of values."""
    rows = f.reshape(len(f), -1)
    return rows @ rows.T / rows.size


def main() -> None:
    """Compute and store the four values."""
    weights = {name: tensor.numpy().astype(np.float64) for name, tensor in bundled_state().items()}
    content = picture(package_file("skimage", "data/chelsea.png"))
    style = picture(FOLDER / "styles" / "swirling_night.jpg")
    of_content, of_black, of_style = (
        features(x, weights) for x in (content, np.zeros_like(content), style)
    )
    values = {
        "cl_out": CONTENT_WEIGHT
        * np.sum((of_content[CONTENT_LAYER] - of_black[CONTENT_LAYER]) ** 2),
        "gm_out": gram(of_style[GRAM_LAYER])[None],
        "sl_out": sum(
            weight * np.sum((gram(of_content[layer]) - gram(of_style[layer])) ** 2)
            for layer, weight in zip(STYLE_LAYERS, STYLE_WEIGHTS, strict=True)
        ),
        "tv_out": TV_WEIGHT
        * (np.sum(np.diff(content, axis=1) ** 2) + np.sum(np.diff(content, axis=2) ** 2)),
    }
    with atomic_write(FOLDER / "reference_values.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, **{name: np.atleast_1d(value) for name, value in values.items()})


if __name__ == "__main__":
    main()
