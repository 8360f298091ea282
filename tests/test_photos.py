"""Opening what people bring: colour profiles, phones' formats, very large photos, odd metadata; only photos."""

import contextlib
import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, difference, noise, png_header, smooth
from PIL import Image, ImageCms, ImageOps, features
from PIL.PngImagePlugin import PngInfo

from errors import InputError
from image_utils import check_image, load_image, open_image, preprocess

# --- Colour profiles, built by hand; what they mean, by arithmetic ---

# Red, green and blue in XYZ under D50, one a column.
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
ADOBE = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
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
    header = struct.pack(">I4sI4s4s4s12s4s", size, bytes(4), 0x02100000, kind, space, connection, bytes(12), b"acsp")
    white = struct.pack(">3i", *(round(65536 * value) for value in D50))
    return (header + bytes(28) + white).ljust(128, b"\0") + struct.pack(">I", len(tags)) + directory + content


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
    return in_srgb(np.linalg.solve(SRGB, D50 * np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))))


PROFILES = {"Display P3": (P3, srgb_curve), "Adobe RGB": (ADOBE, power(2.19921875)), "ProPhoto": (PROPHOTO, power(1.8))}


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("name", PROFILES)
def test_colours_by_their_profile(tmp_path, name, suffix):
    primaries, function = PROFILES[name]
    picture, how = smooth(), {"lossless": True} if suffix == "webp" else {}
    picture.save(tmp_path / f"photo.{suffix}", icc_profile=rgb_profile(primaries, function), **how)
    expected = in_srgb(function(np.asarray(picture) / 255), primaries)
    opened = open_image(tmp_path / f"photo.{suffix}")
    assert np.abs(np.asarray(opened) - expected).max() <= 2
    assert difference(opened, picture) > 2  # otherwise this would prove nothing
    assert "icc_profile" not in opened.info  # saved again, it must not be converted twice
    with Image.open(tmp_path / f"photo.{suffix}") as given:  # a picture that somebody else has opened
        assert (preprocess(given, size=None) == preprocess(opened, size=None)).all()
    assert np.array_equal(load_image(tmp_path / f"photo.{suffix}"), opened)


def test_p3_in_a_jpeg_keeps_its_saturation(tmp_path):
    """Half of the saturation that P3 adds would be lost without the profile."""
    colours = np.full((32, 32, 3), (210, 60, 50), np.uint8)
    Image.fromarray(colours).save(tmp_path / "photo.jpg", quality=95, icc_profile=rgb_profile(P3, srgb_curve))
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
    assert np.abs(opened - (expected * 128 + 255 * 127) / 255).max() <= 2  # on white after the conversion
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
        assert np.abs(opened - in_srgb(dark[..., None] ** 1.8 * np.ones(3))).max() <= 2  # the primaries play no part
    grey.save(tmp_path / "colour.png", icc_profile=rgb_profile(ADOBE, power(2.19921875)))  # as Photoshop does
    assert (
        np.abs(
            np.asarray(open_image(tmp_path / "colour.png")) - in_srgb(dark[..., None] ** 2.19921875 * np.ones(3))
        ).max()
        <= 2
    )
    deep = Image.fromarray((dark * 65535).astype(np.uint16))
    deep.save(tmp_path / "deep.png", icc_profile=grey_profile(power(1.8)))
    assert (
        np.abs(np.asarray(open_image(tmp_path / "deep.png")) - in_srgb(dark[..., None] ** 1.8 * np.ones(3))).max() <= 4
    )


@pytest.mark.parametrize("suffix, tolerance", [("tif", 2), ("jpg", 4)])
def test_inks_by_their_profile(tmp_path, suffix, tolerance):
    patches = np.zeros((16, 64, 4), np.uint8)
    for i, ink in enumerate((None, 3, 0, 1)):  # none, black, cyan, magenta
        if ink is not None:
            patches[:, 16 * i : 16 * i + 16, ink] = 255
    how = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    Image.fromarray(patches, "CMYK").save(tmp_path / f"print.{suffix}", icc_profile=cmyk_profile(), **how)
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
    random, sound = np.random.default_rng(0), {"RGB": rgb_profile(P3, power(2.0)), "CMYK": cmyk_profile()}
    for mode, profile in sound.items():
        picture = smooth((12, 8)).convert(mode)
        for _ in range(50):
            content = bytearray(profile)
            for _ in range(random.integers(1, 8)):
                content[random.integers(min(len(content), 400))] = random.integers(256)
            picture.save(tmp_path / "photo.tif", icc_profile=bytes(content))
            assert open_image(tmp_path / "photo.tif").size == (12, 8)


# --- HEIC and AVIF ---


@pytest.mark.parametrize("suffix", ["heic", "avif"])
def test_photos_of_phones(tmp_path, suffix):
    if suffix == "heic":
        pytest.importorskip("pillow_heif", reason="HEIC takes the package pillow-heif")
    elif not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    picture = smooth((96, 64))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / f"photo.{suffix}", quality=95, icc_profile=rgb_profile(P3, srgb_curve), exif=exif.tobytes())
    expected = in_srgb(srgb_curve(np.asarray(picture) / 255), P3)
    opened = open_image((tmp_path / f"photo.{suffix}").rename(tmp_path / "photo.txt"))
    assert opened.mode == "RGB" and opened.size == (64, 96) and difference(opened, np.rot90(expected, -1)) < 4


@pytest.mark.slow
def test_the_missing_package_is_named(tmp_path):
    heic, mif1, avif = b"ftypheic\0\0\0\0mif1heic", b"ftypmif1\0\0\0\0mif1heic", b"ftypavif\0\0\0\0avifmif1"
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
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    cannot, heif = "cannot be read as an image:", "it is HEIC, which takes a package to read: pip install pillow-heif"
    assert result.stdout.splitlines() == [
        f"'heic.jpg' {cannot} {heif}",
        f"'mif1.jpg' {cannot} {heif}",
        f"'avif.jpg' {cannot} it is AVIF, which Pillow reads from version 11.3 on: pip install --upgrade pillow",
    ]
    pytest.importorskip("pillow_heif")  # where the package is there, a damaged file is not for want of it
    with pytest.raises(InputError, match="no image format") as caught:
        open_image(tmp_path / "heic.jpg")
    assert "pip install" not in str(caught.value)


# --- Large photos ---


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
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    *values, kilobytes = map(int, result.stdout.split())
    assert values[:2] == [6000, 4500] and np.abs(np.subtract(values[2:], [200, 30, 30, 30, 30, 200])).max() < 5
    assert kilobytes < 300_000  # the whole of it would take 324 MB, and as much again in RGB


def test_large_jpegs_are_reduced_and_other_formats_come_whole(tmp_path, monkeypatch):
    """With Pillow's limits set lower, since pictures of 100 megapixels take long to write."""
    picture = smooth((120, 100))
    for suffix in ("jpg", "jp2", "j2k", "png", "tif", "webp"):
        picture.save(tmp_path / f"photo.{suffix}")
    picture.save(tmp_path / "one resolution.jp2", num_resolutions=1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)  # a warning from 10,000 on, an error from 20,000
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
        with pytest.raises(InputError, match=r"bomb\.png'[^\n]* 178 megapixels[^\n]*; save a smaller copy of it$"):
            call(tmp_path / "bomb.png")


# --- Odd metadata ---


@pytest.mark.slow
def test_a_png_with_large_metadata_is_opened(tmp_path):
    info = PngInfo()
    words = "".join(map(chr, np.random.default_rng(0).integers(97, 123, 3_000_000)))
    info.add_text("workflow", words, zip=True)
    info.add_itxt("XML:com.adobe.xmp", words, zip=True)
    info.add_text("plain", words)
    smooth().save(tmp_path / "photo.png", pnginfo=info)
    assert np.array_equal(open_image(tmp_path / "photo.png"), smooth())


def test_exif_that_cannot_be_written_again(tmp_path):
    entries = ((0x0112, 3, 1, struct.pack("<HH", 6, 0)), (0x011A, 2, 3, b"72\0\0"))  # a resolution in letters
    body = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4)
    smooth().save(tmp_path / "photo.jpg", quality=95, exif=exif)
    with Image.open(tmp_path / "photo.jpg") as image, pytest.raises(TypeError):
        ImageOps.exif_transpose(image)
    opened = open_image(tmp_path / "photo.jpg")
    assert opened.size == (32, 48) and difference(opened, np.rot90(smooth(), -1)) < 3


@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
def test_exif_that_cannot_be_read_says_nothing(tmp_path, exif):
    smooth().save(tmp_path / "photo.jpg", quality=95, exif=exif)
    assert difference(open_image(tmp_path / "photo.jpg"), smooth()) < 3


def png(depth: int, colours: int, pixels: bytes, width: int, transparency: bytes = b"") -> bytes:
    """A PNG of one row."""
    head, rest = png_header(width, 1)[:8], png_header(width, 1)[8:]

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    content = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colours, 0, 0, 0))
    content += chunk(b"tRNS", transparency) if transparency else b""
    return head + content + chunk(b"IDAT", zlib.compress(b"\0" + pixels)) + rest[-12:]


def test_16_bit_grey_with_transparency(tmp_path):
    shades = struct.pack(">4H", 0, 25700, 65535, 40000)
    (tmp_path / "key.png").write_bytes(png(16, 0, shades, 4, transparency=struct.pack(">H", 25700)))
    assert np.asarray(open_image(tmp_path / "key.png"))[0].tolist() == [[v] * 3 for v in (0, 255, 255, 156)]
    shades = struct.pack(">8H", 0, 65535, 25700, 65535, 0, 0, 0, 32896)  # each with its opacity
    (tmp_path / "alpha.png").write_bytes(png(16, 4, shades, 4))
    assert np.asarray(open_image(tmp_path / "alpha.png"))[0].tolist() == [[v] * 3 for v in (0, 100, 255, 127)]


# --- Only photos ---


@pytest.mark.parametrize("suffix", ["eps", "ps", "pdf", "pcx", "sgi", "msp", "wmf", "psd", "fits", "xbm"])
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
        with pytest.raises(InputError, match=r"^'[^\n]*photo\.jpg' cannot be read as an image: [^\n]*no image format"):
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
