"""Opening any photo, tensors and back, blurring: against files written here, Pillow, torchvision
and scipy.
"""

import contextlib
import io
import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import warm
from helpers import (
    CONTENT,
    ROOT,
    difference,
    noise,
    png_chunk,
    png_header,
    serving,
    smooth,
    whole,
    without_privileges,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps, features
from PIL.PngImagePlugin import PngInfo
from scipy import ndimage
from torchvision import transforms

from errors import InputError
from image_utils import (
    SQUEEZENET_MEAN,
    SQUEEZENET_STD,
    blur_image,
    check_image,
    deprocess,
    deprocess_image,
    image_from_url,
    load_image,
    open_image,
    preprocess,
    preprocess_image,
    rescale,
    to_batch,
)

QUADRANTS = np.zeros((16, 24, 3), np.uint8)  # no two orientations of it are alike
QUADRANTS[:8, :12], QUADRANTS[:8, 12:], QUADRANTS[8:, :12] = (
    (250, 10, 10),
    (10, 250, 10),
    (10, 10, 250),
)


# --- Opening ---


@pytest.mark.parametrize(
    "name, mode, options, tolerance",
    [
        ("grey.jpg", "L", {"quality": 95}, 3),
        ("colour.jpg", "RGB", {"quality": 95}, 3),
        ("cmyk.jpg", "CMYK", {"quality": 95}, 4),
        ("progressive.jpg", "RGB", {"progressive": True, "quality": 95}, 3),
        ("colour.png", "RGB", {}, 0),
        ("palette.png", "P", {}, 0),
        ("bits.png", "1", {}, 0),
        ("grey.png", "L", {}, 0),
        ("grey.gif", "L", {}, 0),
        ("colour.bmp", "RGB", {}, 0),
        ("colour.tif", "RGB", {"compression": "tiff_lzw"}, 0),
        ("cmyk.tif", "CMYK", {}, 0),
        ("jpeg.tif", "RGB", {"compression": "jpeg"}, 6),
        ("lossless.webp", "RGB", {"lossless": True}, 0),
        ("lossy.webp", "RGB", {}, 6),
        ("colour.jp2", "RGB", {}, 0),
    ],
)
def test_every_format_comes_as_rgb(tmp_path, name, mode, options, tolerance):
    picture = smooth().convert(mode)
    picture.save(tmp_path / name, **options)
    opened = open_image(tmp_path / name)
    assert opened.mode == "RGB" and opened.size == picture.size
    assert difference(opened, picture.convert("RGB")) <= tolerance
    # The content counts, not the name.
    (tmp_path / name).rename(tmp_path / "photo.txt")
    assert np.array_equal(open_image(str(tmp_path / "photo.txt")), opened)


@pytest.mark.parametrize(
    "orientation, upright",
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.swapaxes(0, 1)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a[::-1, ::-1].swapaxes(0, 1)),
        (8, np.rot90),
    ],
)
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_exif_orientation_is_applied(tmp_path, orientation, upright, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(QUADRANTS).save(tmp_path / f"photo.{suffix}", exif=exif)
    opened = np.asarray(open_image(tmp_path / f"photo.{suffix}"))
    expected = upright(QUADRANTS)
    assert opened.shape == expected.shape
    assert np.abs(opened.astype(int) - expected)[[2, 2, -3, -3], [2, -3, 2, -3]].max() < 30


def test_transparency_goes_on_white(tmp_path):
    colours, alpha = noise(6, 5), np.array([0, 255, 128, 0, 255] * 6, np.uint8).reshape(6, 5)
    share = alpha[..., None] / 255
    expected = colours * share + 255 * (1 - share)
    Image.fromarray(np.dstack([colours, alpha])).save(tmp_path / "rgba.png")
    assert np.abs(np.asarray(open_image(tmp_path / "rgba.png")) - expected).max() <= 1
    Image.merge("LA", [Image.fromarray(colours[..., 0]), Image.fromarray(alpha)]).save(
        tmp_path / "la.png"
    )
    opened = np.asarray(open_image(tmp_path / "la.png"))
    assert np.abs(opened - expected[..., :1]).max() <= 1
    palette = Image.new("P", (4, 1))
    palette.putpalette([200, 0, 0, 0, 200, 0])
    palette.putdata([0, 1, 0, 1])
    for suffix in ("png", "gif"):
        palette.save(tmp_path / f"p.{suffix}", transparency=1)
        assert np.asarray(open_image(tmp_path / f"p.{suffix}")).tolist() == [
            [[200, 0, 0], [255, 255, 255]] * 2
        ]
    Image.new("RGB", (2, 1), (1, 2, 3)).save(tmp_path / "key.png", transparency=(1, 2, 3))
    assert open_image(tmp_path / "key.png").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_pictures_keep_their_tones(tmp_path, suffix):
    def save(values, path):
        Image.fromarray(values.astype(np.uint16)).save(path)

    tones = np.linspace(0, 65535, 7 * 9).reshape(7, 9)
    save(tones, tmp_path / f"deep.{suffix}")
    opened = np.asarray(open_image(tmp_path / f"deep.{suffix}")).astype(float)
    assert np.abs(opened - tones[..., None] / 257).max() <= 1
    save(tones / 100, tmp_path / f"dark.{suffix}")  # dark stays dark
    assert np.asarray(open_image(tmp_path / f"dark.{suffix}")).max() <= 3


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_where_white_is_zero_tones_are_not_turned_round(tmp_path, dtype):
    tones = np.linspace(0, np.iinfo(dtype).max, 24).reshape(4, 6).astype(dtype)
    Image.fromarray(np.iinfo(dtype).max - tones).save(tmp_path / "scan.tif", tiffinfo={262: 0})
    if dtype == np.uint8:  # which Pillow inverts when it writes, too
        Image.fromarray(tones).save(tmp_path / "scan.tif", tiffinfo={262: 0})
    opened = np.asarray(open_image(tmp_path / "scan.tif"))[..., 0].astype(float)
    assert np.abs(opened - tones * (255 / np.iinfo(dtype).max)).max() <= 1


@pytest.mark.parametrize(
    "values, expected",
    [
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 128, 255]], np.float32), [0, 128, 255]),
        (np.array([[0, 40000, 65535]], np.int32), [0, 156, 255]),
        (np.array([[-5, 7, 200]], np.int32), [0, 7, 200]),
        (np.array([[0, 1, 1]], np.int32), [0, 1, 1]),
        (np.zeros((1, 3), np.float32), [0, 0, 0]),
    ],
)
def test_deep_tiffs_are_scaled_by_their_range(tmp_path, values, expected):
    Image.fromarray(values).save(tmp_path / "deep.tif")
    assert np.asarray(open_image(tmp_path / "deep.tif"))[0, :, 0].tolist() == expected


def test_a_float_tiff_with_nan_is_refused(tmp_path):
    Image.fromarray(np.array([[0, np.nan]], np.float32)).save(tmp_path / "nan.tif")
    with pytest.raises(InputError, match=r"nan\.tif.*not all finite"):
        open_image(tmp_path / "nan.tif")


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_of_an_animation_the_first_frame_is_taken(tmp_path, suffix):
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue", "lime")]
    kwargs = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **kwargs)
    assert (np.asarray(open_image(tmp_path / f"a.{suffix}")) == (255, 0, 0)).all()


@pytest.mark.slow
@pytest.mark.parametrize("width, height", [(1, 1), (1, 5000), (5000, 1), (6000, 4000)])
def test_odd_sizes(tmp_path, width, height):
    Image.new("RGB", (width, height), (9, 99, 199)).save(tmp_path / "photo.png", compress_level=1)
    opened = open_image(tmp_path / "photo.png")
    assert opened.size == (width, height) and opened.getpixel((0, 0)) == (9, 99, 199)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("empty.jpg", b"", "no image format"),
        ("text.jpg", b"Dear Sir or Madam", "no image format"),
        ("bomb.png", png_header(60000, 60000), "decompression bomb"),
        ("warned.png", png_header(12000, 10000), "truncated"),
        ("page.html", b"<html><body>404</body></html>", "no image format"),
        ("zeros.png", bytes(5000), "no image format"),
        ("program.png", Path(sys.executable).read_bytes()[:20000], "no image format"),
        ("archive.npz", b"PK\x03\x04" + CONTENT, "no image format"),
    ],
)
def test_what_is_no_image_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        InputError, match=f"^'[^\n]*{name}' cannot be read as an image: [^\n]*{message}[^\n]*$"
    ):
        open_image(tmp_path / name)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "tif", "webp"])
def test_a_truncated_image_is_refused(tmp_path, suffix):
    Image.fromarray(noise(40, 40)).save(tmp_path / f"photo.{suffix}")
    content = (tmp_path / f"photo.{suffix}").read_bytes()
    for share in (0.3, 0.6, 0.9):
        (tmp_path / f"cut.{suffix}").write_bytes(content[: int(share * len(content))])
        with pytest.raises(
            InputError, match=rf"cut\.{suffix}' cannot be read as an image: [^\n]+$"
        ):
            open_image(tmp_path / f"cut.{suffix}")


def test_what_is_no_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"absent\.jpg': no such file$"):
        open_image(tmp_path / "absent.jpg")
    with pytest.raises(InputError, match=r"is not a file; an image file is expected$"):
        open_image(tmp_path)
    with pytest.raises(InputError, match=r"^[^\n]*$"):
        open_image("null\0byte.png")
    with pytest.raises(InputError, match=r"^[^\n]*$"):
        open_image(tmp_path / ("x" * 300))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(InputError, match=r"^[^\n]*$"):
        open_image(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(InputError, match=r"pipe\.jpg' is not a file"):
        open_image(tmp_path / "pipe.jpg")
    for device in ("/dev/zero", "/dev/null"):
        with pytest.raises(InputError, match="is not a file"):
            open_image(device)


def test_a_file_without_the_right_to_read_is_named():
    with without_privileges() as folder:
        smooth().save(folder / "secret.png")
        (folder / "secret.png").chmod(0)
        with pytest.raises(InputError, match=r"^cannot read '.*secret\.png': Permission denied$"):
            open_image(folder / "secret.png")
        (folder / "locked").mkdir(mode=0)
        with pytest.raises(InputError, match=r"photo\.png': Permission denied$"):
            open_image(folder / "locked" / "photo.png")
        (folder / "locked").chmod(0o755)


ODD_NAMES = [
    "two words.png",
    "quo'te\".png",
    "new\nline.png",
    "Bär 猫.png",
    "-dash.png",
    "%s{0}.png",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_file_names(tmp_path, name):
    smooth().save(tmp_path / name, format="PNG")
    assert np.array_equal(open_image(tmp_path / name), smooth())
    (tmp_path / name).write_text("text")
    with pytest.raises(InputError, match=r"^[^\n]*$"):
        open_image(tmp_path / name)


def test_bytes_that_are_no_text_in_a_name(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    with open(path, "wb") as file:  # noqa: PTH123 (pathlib knows no bytes)
        smooth().save(file, format="PNG")
    assert open_image(os.fsdecode(path)).size == (48, 32)


@pytest.mark.slow
def test_mutated_images_give_an_image_or_the_one_error(tmp_path, capfd):
    """600 images with bytes overwritten, cut out, doubled or truncated."""
    random = np.random.default_rng(0)
    picture, outcomes = smooth(size=(40, 30)), {"image": 0, "error": 0}
    path = tmp_path / "mutant"
    for kind, options in (
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True, "exif": Image.Exif()}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "jpeg"}),
        ("WEBP", {}),
        ("TIFF", {"compression": "tiff_deflate"}),
        ("PNG", {"optimize": True}),
        ("JPEG2000", {}),
    ):
        buffer = io.BytesIO()
        picture.save(buffer, format=kind, **options)
        for _ in range(50):
            content = bytearray(buffer.getvalue())
            # Headers matter most
            reach = len(content) if random.random() < 0.5 else min(len(content), 200)
            for _ in range(random.integers(1, 12)):
                content[random.integers(reach)] = random.integers(256)
            start, stop = sorted(random.integers(0, len(content), 2))
            fate = random.integers(4)
            if fate == 0:
                del content[stop:]
            elif fate == 1:
                del content[start : min(stop, start + 20)]
            elif fate == 2:
                content[start:start] = content[start : min(stop, start + 20)]
            path.write_bytes(content)
            try:
                opened = open_image(path)
                assert opened.mode == "RGB" and min(opened.size) > 0
                outcomes["image"] += 1
            except InputError as error:
                assert "mutant" in str(error) and "\n" not in str(error)
                outcomes["error"] += 1
        written = capfd.readouterr()
        # Libtiff writes there by itself
        assert not written.out and (not written.err or kind == "TIFF")
    assert sum(outcomes.values()) == 600 and min(outcomes.values()) > 100


def test_load_image_is_an_array_with_the_short_side_asked_for(tmp_path):
    smooth().save(tmp_path / "photo.png")
    assert np.array_equal(load_image(tmp_path / "photo.png"), smooth())
    assert load_image(tmp_path / "photo.png", size=16).shape == (16, 24, 3)
    assert load_image(str(tmp_path / "photo.png"), 64).dtype == np.uint8


def test_image_from_url(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    smooth().save(tmp_path / "photo.png")
    with serving(whole((tmp_path / "photo.png").read_bytes())) as url:
        assert np.array_equal(image_from_url(f"{url}/photo"), smooth())
    with (
        serving(whole(b"<html>")) as url,
        pytest.raises(InputError, match="cannot be read as an image"),
    ):
        image_from_url(url)
    with pytest.raises(InputError, match="cannot download"):
        image_from_url("nonsense")


# --- Tensors and back ---

MODES = [
    "1",
    "L",
    "P",
    "RGB",
    "RGBA",
    "RGBX",
    "CMYK",
    "YCbCr",
    "HSV",
    "LAB",
    "LA",
    "PA",
    "I",
    "F",
    "I;16",
]


def on_white(picture: Image.Image) -> np.ndarray:
    """RGB, transparency on white, by arithmetic."""
    if "A" not in picture.mode or picture.mode == "LAB":
        return np.asarray(picture.convert("RGB"), dtype=float)
    rgba = np.asarray(picture.convert("RGBA"), dtype=float)
    return rgba[..., :3] * rgba[..., 3:] / 255 + 255 - rgba[..., 3:]


@pytest.mark.slow
@given(st.sampled_from(MODES), st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000))
@settings(max_examples=150, deadline=None)
def test_the_round_trip_gives_the_picture_back(mode, width, height, seed):
    if mode == "I;16":
        deep = np.random.default_rng(seed).integers(0, 65536, (height, width), dtype=np.uint16)
        picture, expected = Image.fromarray(deep), np.repeat(deep[..., None] / 257, 3, axis=2)
    else:
        source = Image.fromarray(noise(height, width, 4, seed))
        picture = source.convert({"LA": "LA", "PA": "PA", "RGBA": "RGBA"}.get(mode, "RGB")).convert(
            mode
        )
        expected = on_white(picture)
    tensor = preprocess(picture, size=None)
    assert tensor.shape == (1, 3, height, width) and tensor.dtype == torch.float32
    back = deprocess(tensor, should_rescale=False)
    assert back.mode == "RGB" and np.abs(np.asarray(back) - expected).max() <= 1


@given(st.integers(1, 5), st.integers(1, 30), st.integers(1, 30), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_the_array_round_trip_is_exact(count, height, width, seed):
    X = np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    assert np.array_equal(deprocess_image(preprocess_image(X)), X)
    batch = to_batch(X)
    assert batch.shape == (count, 3, height, width) and batch.dtype == torch.float32
    assert torch.allclose(batch[0], preprocess(Image.fromarray(X[0]), None)[0], atol=1e-6)


@pytest.mark.parametrize(
    "width, height, size", [(48, 32, 224), (32, 48, 20), (500, 333, 9), (7, 7, 5), (33, 47, None)]
)
def test_preprocess_is_the_course_s(width, height, size):
    picture = smooth(size=(width, height))
    steps = [
        transforms.ToTensor(),
        transforms.Normalize(SQUEEZENET_MEAN.tolist(), SQUEEZENET_STD.tolist()),
    ]
    expected = transforms.Compose(steps if size is None else [transforms.Resize(size), *steps])(
        picture
    )
    tensor = preprocess(picture, size)
    assert torch.equal(tensor, expected[None])
    assert min(tensor.shape[2:]) == (size or min(width, height))
    assert (tensor.shape[2] < tensor.shape[3]) == (height < width)


def test_the_constants_are_imagenet_s():
    assert SQUEEZENET_MEAN.dtype == SQUEEZENET_STD.dtype == np.float32
    assert np.allclose(SQUEEZENET_MEAN, [0.485, 0.456, 0.406])
    assert np.allclose(SQUEEZENET_STD, [0.229, 0.224, 0.225])


def normalised(values: list[list[float]]) -> torch.Tensor:
    """RGB pixels in 0…1 as a normalised tensor (1, 3, 1, W)."""
    return torch.from_numpy((np.float32(values) - SQUEEZENET_MEAN) / SQUEEZENET_STD).T[
        None, :, None
    ]


def test_deprocess_clips_or_stretches():
    tensor = normalised([[-1, 0.5, 1], [2, 0, 0.25]])
    clipped = np.asarray(deprocess(tensor, should_rescale=False))
    assert clipped.tolist() == [[[0, 128, 255], [255, 0, 64]]]  # not wrapped around
    stretched = np.asarray(deprocess(tensor))
    assert stretched.tolist() == [[[0, 128, 170], [255, 85, 106]]]
    assert np.array_equal(deprocess(tensor[0]), stretched)
    grad = tensor.double().requires_grad_()
    assert np.array_equal(deprocess(grad), stretched) and grad.grad is None
    assert np.array_equal(
        deprocess_image(tensor[0].permute(1, 2, 0).numpy(), rescale=True), stretched
    )


def test_a_constant_picture_gives_zeros_not_nan():
    assert np.asarray(deprocess(normalised([[0.3] * 3] * 4))).max() <= 1
    assert torch.equal(rescale(torch.full((2, 3), 7.0)), torch.zeros(2, 3))
    assert np.array_equal(rescale(np.full(4, -2.0)), np.zeros(4))


def test_rescale_fills_the_range():
    x = torch.tensor([[-3.0, 1.0], [5.0, 0.0]])
    assert torch.equal(rescale(x), (x + 3) / 8)


@pytest.mark.parametrize("shape", [(1, 3, 20, 30), (2, 1, 7, 5), (1, 3, 1, 9), (3, 2, 2, 2)])
@pytest.mark.parametrize("sigma", [0, 0.1, 0.5, 1, 3.7])
def test_blur_equals_scipy_s(shape, sigma):
    X = torch.from_numpy(np.random.default_rng(0).standard_normal(shape))
    expected = X.numpy()
    for axis in (2, 3):
        expected = ndimage.gaussian_filter1d(expected, sigma, axis=axis) if sigma else expected
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        Y = X.to(dtype, copy=True)
        assert blur_image(Y, sigma) is Y  # in place
        assert np.abs(Y.numpy() - expected).max() <= tolerance
    Z = X.float().to(memory_format=torch.channels_last)
    assert np.abs(blur_image(Z, sigma).numpy() - expected).max() <= 1e-5


def test_blur_of_an_empty_batch_and_of_a_leaf():
    assert blur_image(torch.zeros(0, 3, 4, 4)).shape == (0, 3, 4, 4)
    leaf = torch.rand(1, 3, 4, 4, requires_grad=True)
    assert blur_image(leaf, 0.5) is leaf and leaf.is_leaf and leaf.requires_grad


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: preprocess(np.zeros((4, 4, 3), np.uint8)), "img .*got ndarray"),
        (lambda: preprocess(smooth(), size=0), "size .*got 0"),
        (lambda: preprocess(smooth(), size=(0, 5)), r"size .*got \(0, 5\)"),
        (lambda: preprocess(Image.new("RGB", (1, 5000))), "1×5000 pixels is too large"),
        (lambda: preprocess_image(np.zeros((3, 4))), r"img .*got \(3, 4\)"),
        (lambda: deprocess(smooth()), "img .*got Image"),
        (lambda: deprocess(torch.zeros(0, 3, 4, 4)), r"img must have shape .* got \(0, 3, 4, 4\)"),
        (lambda: deprocess(torch.full((3, 2, 2), torch.nan)), "not finite"),
        (lambda: deprocess(torch.full((3, 2, 2), torch.inf)), "not finite"),
        (
            lambda: to_batch(np.zeros((2, 4, 4, 3))),
            r"X must be uint8 of shape \(N, H, W, 3\), got float64",
        ),
        (lambda: to_batch(np.zeros((4, 4, 3), np.uint8)), r"got uint8 of shape \(4, 4, 3\)"),
        (lambda: blur_image(torch.zeros(3, 4, 4)), r"X must be a float tensor \(N, C, H, W\)"),
        (lambda: blur_image(torch.zeros(1, 3, 4, 4, dtype=torch.int64)), "got torch.int64"),
        (lambda: blur_image(torch.zeros(1, 3, 4, 4), -1), "sigma .*got -1"),
        (lambda: blur_image(torch.zeros(1, 3, 4, 4), float("nan")), "sigma .*got nan"),
    ],
)
def test_arguments_are_checked(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_picture_of_a_given_height_and_width_and_back():
    tensor = preprocess(smooth((48, 32)), size=(20, 50))
    assert tensor.shape == (1, 3, 20, 50) and tensor.dtype == torch.float32
    both = torch.cat([tensor, 0 * tensor])
    first = deprocess(both, should_rescale=False)
    assert first.size == (50, 20)
    assert np.array_equal(first, deprocess(tensor[0], should_rescale=False))


# Red, green and blue in XYZ under D50, one a column.
SRGB = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)


P3 = np.array(
    [[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]]
)


ADOBE = np.array(
    [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]]
)


PROPHOTO = np.array([[0.79767, 0.13519, 0.03135], [0.28804, 0.71188, 0.00009], [0.0, 0.0, 0.82521]])


D50 = np.array([0.9642, 1.0, 0.8249])


def srgb_curve(values):
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def power(gamma: float) -> Callable:
    return lambda values: values**gamma


def in_srgb(linear: np.ndarray, primaries: np.ndarray = SRGB) -> np.ndarray:
    """Linear colours of some primaries as 8-bit sRGB values (…, 3), not rounded."""
    linear = (linear @ (np.linalg.inv(SRGB) @ primaries).T).clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def icc(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile, version 2."""
    directory, content = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, tag in tags.items():
        directory += struct.pack(">4sII", name, start + len(content), len(tag))
        content += tag + bytes(-len(tag) % 4)
    size = start + len(content)
    header = struct.pack(
        ">I4sI4s4s4s12s4s", size, bytes(4), 0x02100000, kind, space, connection, bytes(12), b"acsp"
    )
    white = struct.pack(">3i", *(round(65536 * value) for value in D50))
    return (
        (header + bytes(28) + white).ljust(128, b"\0")
        + struct.pack(">I", len(tags))
        + directory
        + content
    )


def xyz(values: np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * value) for value in values))


def curve(function: Callable) -> bytes:
    steps = np.rint(65535 * function(np.linspace(0, 1, 4096))).astype(">u2")
    return b"curv\0\0\0\0" + struct.pack(">I", len(steps)) + steps.tobytes()


def rgb_profile(primaries: np.ndarray, function: Callable) -> bytes:
    tags = {b"wtpt": xyz(D50)}
    for letter, column in zip((b"r", b"g", b"b"), primaries.T, strict=True):
        tags |= {letter + b"XYZ": xyz(column), letter + b"TRC": curve(function)}
    return icc(b"mntr", b"RGB ", b"XYZ ", tags)


def grey_profile(function: Callable) -> bytes:
    return icc(b"mntr", b"GRAY", b"XYZ ", {b"wtpt": xyz(D50), b"kTRC": curve(function)})


CYAN = (60, -20, -30)  # this printer's inks in Lab


MAGENTA = (50, 60, -5)


def cmyk_profile() -> bytes:
    """A printer's profile: no ink is white, black ink is black, cyan and magenta are as above."""
    inks = {(0, 0, 0, 0): (100, 0, 0), (1, 0, 0, 0): CYAN, (0, 1, 0, 0): MAGENTA}
    grid = b""
    for i in range(16):  # the last ink, black, varies fastest
        combination = tuple(int(bit) for bit in f"{i:04b}")
        lightness, a, b = (0, 0, 0) if combination[3] else inks.get(combination, (40, 0, 0))
        grid += bytes([round(lightness * 2.55), a + 128, b + 128])
    straight = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * int(i % 4 == 0) for i in range(9)))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + 4 * straight + grid + 3 * straight
    return icc(b"prtr", b"CMYK", b"Lab ", {b"wtpt": xyz(D50), b"A2B0": table})


def lab_in_srgb(lightness: float, a: float, b: float) -> np.ndarray:
    y = (lightness + 16) / 116
    f = np.array([y + a / 500, y, y - b / 200])
    return in_srgb(
        np.linalg.solve(SRGB, D50 * np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)))
    )


PROFILES = {
    "Display P3": (P3, srgb_curve),
    "Adobe RGB": (ADOBE, power(2.19921875)),
    "ProPhoto": (PROPHOTO, power(1.8)),
}


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("name", PROFILES)
def test_colours_by_their_profile(tmp_path, name, suffix):
    primaries, function = PROFILES[name]
    picture, kwargs = smooth(), {"lossless": True} if suffix == "webp" else {}
    picture.save(
        tmp_path / f"photo.{suffix}", icc_profile=rgb_profile(primaries, function), **kwargs
    )
    expected = in_srgb(function(np.asarray(picture) / 255), primaries)
    opened = open_image(tmp_path / f"photo.{suffix}")
    assert np.abs(np.asarray(opened) - expected).max() <= 2
    assert difference(opened, picture) > 2  # otherwise this would prove nothing
    assert "icc_profile" not in opened.info  # saved again, it must not be converted twice
    # a picture that somebody else has opened
    with Image.open(tmp_path / f"photo.{suffix}") as given:
        assert (preprocess(given, size=None) == preprocess(opened, size=None)).all()
    assert np.array_equal(load_image(tmp_path / f"photo.{suffix}"), opened)


def test_p3_in_a_jpeg_keeps_its_saturation(tmp_path):
    """Half of the saturation that P3 adds would be lost without the profile."""
    colours = np.full((32, 32, 3), (210, 60, 50), np.uint8)
    Image.fromarray(colours).save(
        tmp_path / "photo.jpg", quality=95, icc_profile=rgb_profile(P3, srgb_curve)
    )
    red, green, blue = np.asarray(open_image(tmp_path / "photo.jpg"))[16, 16].astype(float)
    expected = in_srgb(srgb_curve(colours[0, 0] / 255), P3)
    assert np.abs(np.array([red, green, blue]) - expected).max() <= 4 and red - green > 190


def test_srgb_leaves_the_pixels_as_they_are(tmp_path):
    picture = Image.fromarray(noise(64, 64))
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture.save(tmp_path / "photo.png", icc_profile=own)
    assert np.array_equal(open_image(tmp_path / "photo.png"), picture)


def test_profiles_beside_transparency_palettes_and_grey(tmp_path):
    profile, picture = rgb_profile(P3, srgb_curve), smooth()
    expected = in_srgb(srgb_curve(np.asarray(picture) / 255), P3)
    half = picture.copy()
    half.putalpha(128)
    half.save(tmp_path / "half.png", icc_profile=profile)
    opened = np.asarray(open_image(tmp_path / "half.png"))
    # On white after the conversion
    assert np.abs(opened - (expected * 128 + 255 * 127) / 255).max() <= 2
    palette = picture.quantize(64)
    palette.save(tmp_path / "palette.png", icc_profile=profile)
    expected = in_srgb(srgb_curve(np.asarray(palette.convert("RGB")) / 255), P3)
    assert np.abs(np.asarray(open_image(tmp_path / "palette.png")) - expected).max() <= 2

    grey, dark = picture.convert("L"), np.asarray(picture.convert("L")) / 255
    for name, alpha in (("l", None), ("la", 255)):
        shade = grey.copy()
        if alpha:
            shade.putalpha(alpha)
        shade.save(tmp_path / f"{name}.png", icc_profile=grey_profile(power(1.8)))
        opened = np.asarray(open_image(tmp_path / f"{name}.png"))
        # The primaries play no part
        assert np.abs(opened - in_srgb(dark[..., None] ** 1.8 * np.ones(3))).max() <= 2
    # As Photoshop does
    grey.save(tmp_path / "colour.png", icc_profile=rgb_profile(ADOBE, power(2.19921875)))
    assert (
        np.abs(
            np.asarray(open_image(tmp_path / "colour.png"))
            - in_srgb(dark[..., None] ** 2.19921875 * np.ones(3))
        ).max()
        <= 2
    )
    deep = Image.fromarray((dark * 65535).astype(np.uint16))
    deep.save(tmp_path / "deep.png", icc_profile=grey_profile(power(1.8)))
    assert (
        np.abs(
            np.asarray(open_image(tmp_path / "deep.png"))
            - in_srgb(dark[..., None] ** 1.8 * np.ones(3))
        ).max()
        <= 4
    )


@pytest.mark.parametrize("suffix, tolerance", [("tif", 2), ("jpg", 4)])
def test_inks_by_their_profile(tmp_path, suffix, tolerance):
    patches = np.zeros((16, 64, 4), np.uint8)
    for i, ink in enumerate((None, 3, 0, 1)):  # none, black, cyan, magenta
        if ink is not None:
            patches[:, 16 * i : 16 * i + 16, ink] = 255
    kwargs = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    Image.fromarray(patches, "CMYK").save(
        tmp_path / f"print.{suffix}", icc_profile=cmyk_profile(), **kwargs
    )
    opened = np.asarray(open_image(tmp_path / f"print.{suffix}"))[8, 8::16]
    expected = [[255] * 3, [0] * 3, lab_in_srgb(*CYAN), lab_in_srgb(*MAGENTA)]
    assert np.abs(opened - np.array(expected)).max() <= tolerance, opened


@pytest.mark.parametrize(
    "profile",
    [
        b"no profile at all",
        rgb_profile(P3, srgb_curve)[:300],
        rgb_profile(P3, srgb_curve)[:-20000],
        b"\0" * 5000,
        cmyk_profile(),
        grey_profile(power(1.0)),
    ],
    ids=["text", "cut", "cut later", "zeros", "of inks", "of grey"],
)
def test_a_profile_that_is_broken_or_of_another_kind_is_ignored(tmp_path, profile, capfd):
    smooth().save(tmp_path / "photo.png", icc_profile=profile)
    assert np.array_equal(open_image(tmp_path / "photo.png"), smooth())
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_mutated_profiles_never_keep_a_photo_from_being_opened(tmp_path):
    random, sound = (
        np.random.default_rng(0),
        {"RGB": rgb_profile(P3, power(2.0)), "CMYK": cmyk_profile()},
    )
    for mode, profile in sound.items():
        picture = smooth((12, 8)).convert(mode)
        for _ in range(50):
            content = bytearray(profile)
            for _ in range(random.integers(1, 8)):
                content[random.integers(min(len(content), 400))] = random.integers(256)
            picture.save(tmp_path / "photo.tif", icc_profile=bytes(content))
            assert open_image(tmp_path / "photo.tif").size == (12, 8)


@pytest.mark.parametrize("suffix", ["heic", "avif"])
def test_photos_of_phones(tmp_path, suffix):
    if suffix == "heic":
        pytest.importorskip("pillow_heif", reason="HEIC takes the package pillow-heif")
    elif not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    picture = smooth((96, 64))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(
        tmp_path / f"photo.{suffix}",
        quality=95,
        icc_profile=rgb_profile(P3, srgb_curve),
        exif=exif.tobytes(),
    )
    expected = in_srgb(srgb_curve(np.asarray(picture) / 255), P3)
    opened = open_image((tmp_path / f"photo.{suffix}").rename(tmp_path / "photo.txt"))
    assert opened.mode == "RGB" and opened.size == (64, 96)
    assert difference(opened, np.rot90(expected, -1)) < 4


@pytest.mark.slow
def test_the_missing_package_is_named(tmp_path):
    heic, mif1, avif = (
        b"ftypheic\0\0\0\0mif1heic",
        b"ftypmif1\0\0\0\0mif1heic",
        b"ftypavif\0\0\0\0avifmif1",
    )
    for name, brands in (("heic.jpg", heic), ("mif1.jpg", mif1), ("avif.jpg", avif)):
        (tmp_path / name).write_bytes(b"\0\0\0\x18" + brands + bytes(100))
    program = f"""
import sys
sys.modules["pillow_heif"] = sys.modules["PIL._avif"] = None  # they cannot be imported
sys.path.insert(0, {str(ROOT)!r})
from image_utils import InputError, open_image
for name in ("heic.jpg", "mif1.jpg", "avif.jpg"):
    try:
        open_image(name)
    except InputError as error:
        print(error)
"""
    result = warm.run("-c", program, cwd=tmp_path)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    cannot, heif = (
        "cannot be read as an image:",
        "it is HEIC, which takes a package to read: pip install pillow-heif",
    )
    assert result.stdout.splitlines() == [
        f"'heic.jpg' {cannot} {heif}",
        f"'mif1.jpg' {cannot} {heif}",
        f"'avif.jpg' {cannot} it is AVIF, which Pillow reads from version 11.3 on: pip install "
        f"--upgrade pillow",
    ]
    # Where the package is there, a damaged file is not for want of it
    pytest.importorskip("pillow_heif")
    with pytest.raises(InputError, match="no image format") as caught:
        open_image(tmp_path / "heic.jpg")
    assert "pip install" not in str(caught.value)


@pytest.mark.slow
def test_a_jpeg_of_108_megapixels_is_reduced_while_it_is_decoded(tmp_path):
    picture = Image.new("RGB", (12000, 9000), (200, 30, 30))
    picture.paste((30, 30, 200), (6000, 0, 12000, 9000))
    picture.save(tmp_path / "photo.jpg", quality=80)
    del picture
    program = f"""
import resource, sys
sys.path.insert(0, {str(ROOT)!r})
from image_utils import open_image
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
image = open_image({str(tmp_path / "photo.jpg")!r})
print(*image.size, *image.getpixel((2000, 99)), *image.getpixel((4000, 4400)))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // (1 if sys.platform == "linux" else 1024))
"""
    result = warm.run("-c", program)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    *values, kilobytes = map(int, result.stdout.split())
    assert values[:2] == [6000, 4500]
    assert np.abs(np.subtract(values[2:], [200, 30, 30, 30, 30, 200])).max() < 5
    assert kilobytes < 300_000  # the whole of it would take 324 MB, and as much again in RGB


def test_large_jpegs_are_reduced_and_other_formats_come_whole(tmp_path, monkeypatch):
    """With Pillow's limits set lower, since pictures of 100 megapixels take long to write."""
    picture = smooth((120, 100))
    for suffix in ("jpg", "jp2", "j2k", "png", "tif", "webp"):
        picture.save(tmp_path / f"photo.{suffix}")
    picture.save(tmp_path / "one resolution.jp2", num_resolutions=1)
    # a warning from 10,000 on, an error from 20,000
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    halved = {"photo.jpg", "photo.jp2", "photo.j2k"}
    for path in tmp_path.iterdir():
        opened = open_image(path)
        assert opened.size == ((60, 50) if path.name in halved else (120, 100))
        assert difference(opened, picture.resize(opened.size)) < 6
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12_000)
    assert open_image(tmp_path / "photo.jpg").size == (120, 100)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # no limit
    assert open_image(tmp_path / "photo.jpg").size == (120, 100)


def test_above_pillow_s_limit_one_line_says_what_to_do(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png_header(20000, 10000))
    for call in (open_image, check_image):
        with pytest.raises(
            InputError, match=r"bomb\.png'[^\n]* 178 megapixels[^\n]*; save a smaller copy of it$"
        ):
            call(tmp_path / "bomb.png")


@pytest.mark.slow
def test_a_png_with_large_metadata_is_opened(tmp_path):
    info = PngInfo()
    message = "".join(map(chr, np.random.default_rng(0).integers(97, 123, 3_000_000)))
    info.add_text("workflow", message, zip=True)
    info.add_itxt("XML:com.adobe.xmp", message, zip=True)
    info.add_text("plain", message)
    smooth().save(tmp_path / "photo.png", pnginfo=info)
    assert np.array_equal(open_image(tmp_path / "photo.png"), smooth())


def test_exif_that_cannot_be_written_again(tmp_path):
    # a resolution in letters
    entries = ((0x0112, 3, 1, struct.pack("<HH", 6, 0)), (0x011A, 2, 3, b"72\0\0"))
    body = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4)
    smooth().save(tmp_path / "photo.jpg", quality=95, exif=exif)
    with Image.open(tmp_path / "photo.jpg") as image, pytest.raises(TypeError):
        ImageOps.exif_transpose(image)
    opened = open_image(tmp_path / "photo.jpg")
    assert opened.size == (32, 48) and difference(opened, np.rot90(smooth(), -1)) < 3


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"]
)
def test_exif_that_cannot_be_read_says_nothing(tmp_path, exif):
    smooth().save(tmp_path / "photo.jpg", quality=95, exif=exif)
    assert difference(open_image(tmp_path / "photo.jpg"), smooth()) < 3


def png(depth: int, colours: int, pixels: bytes, width: int, transparency: bytes = b"") -> bytes:
    """A PNG of one row."""
    head, rest = png_header(width, 1)[:8], png_header(width, 1)[8:]
    content = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colours, 0, 0, 0))
    content += png_chunk(b"tRNS", transparency) if transparency else b""
    return head + content + png_chunk(b"IDAT", zlib.compress(b"\0" + pixels)) + rest[-12:]


def test_16_bit_grey_with_transparency(tmp_path):
    shades = struct.pack(">4H", 0, 25700, 65535, 40000)
    (tmp_path / "key.png").write_bytes(png(16, 0, shades, 4, transparency=struct.pack(">H", 25700)))
    assert np.asarray(open_image(tmp_path / "key.png"))[0].tolist() == [
        [v] * 3 for v in (0, 255, 255, 156)
    ]
    shades = struct.pack(">8H", 0, 65535, 25700, 65535, 0, 0, 0, 32896)  # each with its opacity
    (tmp_path / "alpha.png").write_bytes(png(16, 4, shades, 4))
    assert np.asarray(open_image(tmp_path / "alpha.png"))[0].tolist() == [
        [v] * 3 for v in (0, 100, 255, 127)
    ]


@pytest.mark.parametrize(
    "suffix", ["eps", "ps", "pdf", "pcx", "sgi", "msp", "wmf", "psd", "fits", "xbm"]
)
def test_only_photos_are_opened(tmp_path, suffix):
    contents = {
        "ps": b"%!PS-Adobe-3.0\n%%BoundingBox: 0 0 9 9\n",
        "wmf": b"\xd7\xcd\xc6\x9a\0\0" + bytes(60),
        "psd": b"8BPS\0\1" + bytes(40),
        "fits": b"SIMPLE  =                    T".ljust(2880),
    }
    path = tmp_path / f"photo.{suffix}"
    if suffix in contents:
        path.write_bytes(contents[suffix])
    else:
        smooth().convert("1" if suffix in ("msp", "xbm") else "RGB").save(path)
    path = path.rename(tmp_path / "photo.jpg")
    for call in (open_image, check_image):
        with pytest.raises(
            InputError,
            match=r"^'[^\n]*photo\.jpg' cannot be read as an image: [^\n]*no image format",
        ):
            call(path)


def test_an_eps_starts_no_other_program(tmp_path, monkeypatch):
    (tmp_path / "gs").write_text(f"#!/bin/sh\n: > {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    smooth().save(tmp_path / "photo.jpg", format="EPS")
    with pytest.raises(InputError, match="no image format"):
        open_image(tmp_path / "photo.jpg")
    assert not (tmp_path / "started").exists()
    with Image.open(tmp_path / "photo.jpg") as image, contextlib.suppress(OSError):
        image.load()
    assert (tmp_path / "started").exists()  # the program would be there, and Pillow would start it


def test_a_web_address_gets_a_sentence_that_helps():
    for address in ("https://example.org/cat.jpg", "HTTP://example.org/cat.jpg"):
        for call in (open_image, check_image):
            with pytest.raises(InputError, match=rf"^'{address}' is a web address; save the photo"):
                call(address)
    with pytest.raises(InputError, match="is a web address"):
        open_image(Path("https://example.org/cat.jpg"))


def test_what_is_checked_is_not_decoded(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(noise(64, 64)).save(buffer, format="PNG")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[:500])
    check_image(tmp_path / "cut.png")
    with pytest.raises(InputError, match="truncated"):
        open_image(tmp_path / "cut.png")
