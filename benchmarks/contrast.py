"""Deletion until another class wins: does the contrastive map need fewer pixels than Grad-CAM's?

Of the course's 25 photos, the guess and the runner-up of SqueezeNet. Pixels go, the largest of a
map first, in steps of 2 %, until the runner-up outscores the guess.
"""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_utils import load_imagenet_val
from image_utils import to_batch
from model_utils import load_model
from visualizers import GradCam
from visualizers.contrast import runners_up
from visualizers.sanity import baseline, pixel_order

STEPS = 50


def share_until_flip(model, image, under, order, guess: int, other: int) -> float:
    """Return the share of pixels gone when `other` first outscores `guess`; if never, 1.02."""
    place = order.argsort()
    counts = torch.linspace(0, len(place), STEPS + 1).round()
    gone = (place < counts[:, None]).view(-1, 1, *image.shape[1:])
    with torch.no_grad():
        pictures = torch.where(gone, under, image)
        scores = torch.cat([model(part) for part in pictures.split(17)])
    flipped = (scores[:, other] > scores[:, guess]).nonzero()
    return float(flipped[0]) / STEPS if len(flipped) else 1 + 1 / STEPS


def main() -> None:
    """Print a Markdown table."""
    model, X = load_model(weights="bundled", device="cpu"), to_batch(load_imagenet_val()[0])
    with torch.no_grad():
        scores = model(X)
    guesses, cam = scores.argmax(dim=1), GradCam()
    others = runners_up(scores, guesses)
    maps = {
        "Grad-CAM": cam.grad_cam(X, guesses, model, per_image=True),
        "contrast": cam.grad_cam(X, guesses, model, per_image=True, against=others),
        "random": np.zeros((len(X), *X.shape[2:])),
    }
    print(
        "| deleted pixels become | map | flips | median share (quartiles) | fewer, as many, more |"
    )
    print("| --- | --- | --: | --: | --: |")
    for kind in ("mean", "blur"):
        under, found = baseline(X, kind), {}
        for name, values in maps.items():
            parts = zip(
                X, under, pixel_order(values), guesses.tolist(), others.tolist(), strict=True
            )
            found[name] = own = np.array([share_until_flip(model, *part) for part in parts])
            low, median, high = np.quantile(own, (0.25, 0.5, 0.75))
            plain = found["Grad-CAM"]
            pairs = ", ".join(str(int(n.sum())) for n in (own < plain, own == plain, own > plain))
            row = kind, name, (own <= 1).sum(), f"{median:.2f} ({low:.2f}–{high:.2f})", pairs
            print("|", " | ".join(map(str, row)), "|", flush=True)


if __name__ == "__main__":
    main()
