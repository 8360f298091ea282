"""Opening any photo, tensors and back, blurring: against files written here, Pillow, torchvision and scipy."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import CONTENT, difference, noise, png_header, serving, smooth, whole, without_privileges
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from torchvision import transforms

from image_utils import (
    SQUEEZENET_MEAN,
    SQUEEZENET_STD,
    InputError,
    blur_image,
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
QUADRANTS[:8, :12], QUADRANTS[:8, 12:], QUADRANTS[8:, :12] = (250, 10, 10), (10, 250, 10), (10, 10, 250)


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
    Image.merge("LA", [Image.fromarray(colours[..., 0]), Image.fromarray(alpha)]).save(tmp_path / "la.png")
    opened = np.asarray(open_image(tmp_path / "la.png"))
    assert np.abs(opened - expected[..., :1]).max() <= 1
    palette = Image.new("P", (4, 1))
    palette.putpalette([200, 0, 0, 0, 200, 0])
    palette.putdata([0, 1, 0, 1])
    for suffix in ("png", "gif"):
        palette.save(tmp_path / f"p.{suffix}", transparency=1)
        assert np.asarray(open_image(tmp_path / f"p.{suffix}")).tolist() == [[[200, 0, 0], [255, 255, 255]] * 2]
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


@pytest.mark.parametrize(
    "values, expected",
    [
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 128, 255]], np.float32), [0, 128, 255]),
        (np.array([[0, 40000, 65535]], np.int32), [0, 156, 255]),
        (np.array([[-5, 7, 200]], np.int32), [0, 7, 200]),
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
    how = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **how)
    assert (np.asarray(open_image(tmp_path / f"a.{suffix}")) == (255, 0, 0)).all()


@pytest.mark.slow
@pytest.mark.parametrize("width, height", [(1, 1), (1, 5000), (5000, 1), (6000, 4000)])
def test_odd_sizes(tmp_path, width, height):
    Image.new("RGB", (width, height), (9, 99, 199)).save(tmp_path / "photo.png", compress_level=1)
    opened = open_image(tmp_path / "photo.png")
    assert opened.size == (width, height) and opened.getpixel((0, 0)) == (9, 99, 199)


@pytest.mark.parametrize(
    "name, content, words",
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
def test_what_is_no_image_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"^'[^\n]*{name}' cannot be read as an image: [^\n]*{words}[^\n]*$"):
        open_image(tmp_path / name)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "tif", "webp"])
def test_a_truncated_image_is_refused(tmp_path, suffix):
    Image.fromarray(noise(40, 40)).save(tmp_path / f"photo.{suffix}")
    content = (tmp_path / f"photo.{suffix}").read_bytes()
    for share in (0.3, 0.6, 0.9):
        (tmp_path / f"cut.{suffix}").write_bytes(content[: int(share * len(content))])
        with pytest.raises(InputError, match=rf"cut\.{suffix}' cannot be read as an image: [^\n]+$"):
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


ODD_NAMES = ["two words.png", "quo'te\".png", "new\nline.png", "Bär 猫.png", "-dash.png", "%s{0}.png"]


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
            reach = len(content) if random.random() < 0.5 else min(len(content), 200)  # headers matter most
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
        assert not written.out and (not written.err or kind == "TIFF")  # libtiff writes there by itself
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
    with serving(whole(b"<html>")) as url, pytest.raises(InputError, match="cannot be read as an image"):
        image_from_url(url)
    with pytest.raises(InputError, match="cannot download"):
        image_from_url("nonsense")


# --- Tensors and back ---

MODES = ["1", "L", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "LA", "PA", "I", "F", "I;16"]


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
        picture = source.convert({"LA": "LA", "PA": "PA", "RGBA": "RGBA"}.get(mode, "RGB")).convert(mode)
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


@pytest.mark.parametrize("width, height, size", [(48, 32, 224), (32, 48, 20), (500, 333, 9), (7, 7, 5), (33, 47, None)])
def test_preprocess_is_the_course_s(width, height, size):
    picture = smooth(size=(width, height))
    steps = [transforms.ToTensor(), transforms.Normalize(SQUEEZENET_MEAN.tolist(), SQUEEZENET_STD.tolist())]
    expected = transforms.Compose(steps if size is None else [transforms.Resize(size), *steps])(picture)
    tensor = preprocess(picture, size)
    assert torch.equal(tensor, expected[None])
    assert min(tensor.shape[2:]) == (size or min(width, height))
    assert (tensor.shape[2] < tensor.shape[3]) == (height < width)


def test_the_constants_are_imagenet_s():
    assert SQUEEZENET_MEAN.dtype == SQUEEZENET_STD.dtype == np.float32
    assert np.allclose(SQUEEZENET_MEAN, [0.485, 0.456, 0.406]) and np.allclose(SQUEEZENET_STD, [0.229, 0.224, 0.225])


def normalised(values: list[list[float]]) -> torch.Tensor:
    """RGB pixels in 0…1 as a normalised tensor (1, 3, 1, W)."""
    return torch.from_numpy((np.float32(values) - SQUEEZENET_MEAN) / SQUEEZENET_STD).T[None, :, None]


def test_deprocess_clips_or_stretches():
    tensor = normalised([[-1, 0.5, 1], [2, 0, 0.25]])
    clipped = np.asarray(deprocess(tensor, should_rescale=False))
    assert clipped.tolist() == [[[0, 128, 255], [255, 0, 64]]]  # not wrapped around
    stretched = np.asarray(deprocess(tensor))
    assert stretched.tolist() == [[[0, 128, 170], [255, 85, 106]]]
    assert np.array_equal(deprocess(tensor[0]), stretched)
    grad = tensor.double().requires_grad_()
    assert np.array_equal(deprocess(grad), stretched) and grad.grad is None
    assert np.array_equal(deprocess_image(tensor[0].permute(1, 2, 0).numpy(), rescale=True), stretched)


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
    "call, words",
    [
        (lambda: preprocess(np.zeros((4, 4, 3), np.uint8)), "img must be a PIL image, got ndarray"),
        (lambda: preprocess(smooth(), size=0), "size must be at least 1, got 0"),
        (lambda: preprocess(Image.new("RGB", (1, 5000))), "1×5000 pixels is too large"),
        (lambda: preprocess_image(np.zeros((3, 4))), r"img must have shape \(\.\.\., 3\), got \(3, 4\)"),
        (lambda: deprocess(smooth()), "img must be a tensor, got Image"),
        (lambda: deprocess(torch.zeros(0, 3, 4, 4)), r"img must have shape .* got \(0, 3, 4, 4\)"),
        (lambda: deprocess(torch.full((3, 2, 2), torch.nan)), "not finite"),
        (lambda: deprocess(torch.full((3, 2, 2), torch.inf)), "not finite"),
        (lambda: to_batch(np.zeros((2, 4, 4, 3))), r"X must be uint8 of shape \(N, H, W, 3\), got float64"),
        (lambda: to_batch(np.zeros((4, 4, 3), np.uint8)), r"got uint8 of shape \(4, 4, 3\)"),
        (lambda: blur_image(torch.zeros(3, 4, 4)), r"X must be a float tensor \(N, C, H, W\)"),
        (lambda: blur_image(torch.zeros(1, 3, 4, 4, dtype=torch.int64)), "got torch.int64"),
        (lambda: blur_image(torch.zeros(1, 3, 4, 4), -1), "sigma must be a finite number from 0, got -1"),
        (lambda: blur_image(torch.zeros(1, 3, 4, 4), float("nan")), "sigma must be a finite number from 0, got nan"),
    ],
)
def test_arguments_are_checked(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_picture_of_a_given_height_and_width_and_back():
    tensor = preprocess(smooth((48, 32)), size=(20, 50))
    assert tensor.shape == (1, 3, 20, 50) and tensor.dtype == torch.float32
    both = torch.cat([tensor, 0 * tensor])
    first = deprocess(both, should_rescale=False)
    assert first.size == (50, 20) and np.array_equal(first, deprocess(tensor[0], should_rescale=False))
