"""Image files of more than 8 bits, of odd kinds, damaged and too large: the pixels by hand, or a refusal."""

import contextlib
import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from refusals import refusal

import bat.io.given
from bat.data.decoding import LARGEST_FILE, LARGEST_IMAGE, Look, decode, read_file, read_images, size_of

WIDTH, HEIGHT = 10, 8
GREY, COLOUR = Look((1, HEIGHT, WIDTH), resize=False), Look((3, HEIGHT, WIDTH), resize=False)
RGB = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def values(top, low=0):
    """Return numbers from ``low`` to ``top``, both of which are there."""
    numbers = np.random.default_rng(top).integers(low, top + 1, (HEIGHT, WIDTH))
    numbers[0, :2] = low, top
    return numbers


def encoded(image, kind, **more):
    stream = io.BytesIO()
    image.save(stream, kind, **more)
    return stream.getvalue()


def tiff(numbers, dtype=np.uint16, **tags):
    directory = ImageFileDirectory_v2()
    for name, value in tags.items():
        directory[{"largest": 281, "largest_sample": 341}[name]] = value
    return encoded(Image.fromarray(numbers.astype(dtype)), "TIFF", tiffinfo=directory)


def bare_tiff(content, bits, photometric=1, samples=1, more=()):
    """Return a TIFF of one strip, with bits that Pillow does not write; ``more``: further tags of one short each."""
    tags = {256: (3, WIDTH), 257: (3, HEIGHT), 258: (3, bits), 259: (3, 1), 262: (3, photometric), 273: (4, 8)}
    tags |= {277: (3, samples), 278: (3, HEIGHT), 279: (4, len(content)), **{tag: (3, value) for tag, value in more}}
    entries = [struct.pack("<HHII", tag, kind, 1, value) for tag, (kind, value) in tags.items()]
    if samples > 1:  # their bits stand behind the strip
        entries[2] = struct.pack("<HHII", 258, 3, samples, 8 + len(content))
    behind = struct.pack(f"<{samples}H", *[bits] * samples) if samples > 1 else b""
    start = struct.pack("<I", 8 + len(content) + len(behind))
    return b"II*\0" + start + content + behind + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


def pgm(numbers, maxval):
    return f"P5\n{WIDTH} {HEIGHT}\n{maxval}\n".encode() + numbers.astype(">u2" if maxval > 255 else "u1").tobytes()


def plain_pgm(numbers, maxval):
    return f"P2\n{WIDTH} {HEIGHT}\n{maxval}\n{' '.join(map(str, numbers.ravel()))}\n".encode()


def ppm(numbers, maxval):
    """Return a PPM of three equal channels."""
    content = np.stack([numbers] * 3, 2).astype(">u2" if maxval > 255 else "u1")
    return f"P6\n{WIDTH} {HEIGHT}\n{maxval}\n".encode() + content.tobytes()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows, depth, colour, width=WIDTH, height=HEIGHT, more=b""):
    """Return a PNG of rows of bytes; colour: 0 grey, 2 RGB, 4 grey with alpha, 6 RGBA."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def png16(numbers, channels=1, alpha=False):
    stack = np.stack([numbers] * channels + [values(65535)] * alpha, 2).astype(">u2")
    colour = {(1, False): 0, (3, False): 2, (1, True): 4, (3, True): 6}[channels, alpha]
    return png([row.tobytes() for row in stack], 16, colour)


def refused(content, look=GREY):
    with pytest.raises((ValueError, OSError, SyntaxError)) as caught:
        decode(content, look)
    return str(caught.value)


# -- bits


@pytest.mark.parametrize("top", [255, 1023, 4095, 16383, 65535])
@pytest.mark.parametrize(
    "write",
    [
        pgm,
        plain_pgm,
        ppm,
        lambda numbers, top: tiff(numbers, largest=top),
        lambda numbers, top: tiff(numbers, largest_sample=top),
        lambda numbers, top: tiff(numbers, dtype=np.int32, largest_sample=top),
    ],
    ids=["pgm", "plain pgm", "ppm", "tiff", "tiff sample", "int32 tiff"],
)
def test_white_is_what_the_file_says(write, top):
    numbers = values(top)
    pixels, _ = decode(write(numbers, top), GREY)
    assert pixels.shape == (1, HEIGHT, WIDTH)
    assert pixels.min() == 0
    assert pixels.max() == 255
    # of 16 bits the upper 8 are kept: less than one step down
    assert np.abs(pixels[0] - numbers * 255 / top).max() <= 1


def test_a_tiff_of_12_bits_is_scaled_by_them():
    numbers = values(4095)
    bits = "".join(f"{value:012b}" for value in numbers.ravel())
    pixels, largest = decode(bare_tiff(int(bits, 2).to_bytes(len(bits) // 8, "big"), 12), GREY)
    np.testing.assert_array_equal(pixels[0], (numbers * 255 + 2047) // 4095)
    assert largest is None


def test_where_0_is_white_a_tiff_of_16_bits_is_turned():
    numbers = values(65535).astype("<u2")
    (black, _), (white, _) = (decode(bare_tiff(numbers.tobytes(), 16, zero), GREY) for zero in (1, 0))
    np.testing.assert_array_equal(black[0], numbers >> 8)
    np.testing.assert_array_equal(white[0], (65535 - numbers) >> 8)


def test_the_tags_of_a_tiff_of_16_bits():
    numbers = values(4095).astype("<u2")
    white, largest = decode(bare_tiff(numbers.tobytes(), 16, 0, more=[(281, 4095)]), GREY)
    np.testing.assert_array_equal(white[0], ((4095 - numbers.astype(int)) * 255 + 2047) // 4095)
    assert largest is None
    full = values(65535).astype("<u2").tobytes()
    assert decode(bare_tiff(full, 16, more=[(339, 1)]), GREY)[1] == 65535
    assert "and nothing says which of them is white" in refused(bare_tiff(full, 16, more=[(339, 2)]))  # signed
    colours = np.stack([numbers] * 3, 2).tobytes()
    assert refused(bare_tiff(colours, 16, 2, 3, [(281, 4095)])) == (
        "colours of 16 bits whose tags say that white is 4095: save them with 8 bits, or over all of 0 to 65535"
    )


def test_the_largest_value_of_8_bits_says_nothing_new():
    found, largest = decode(bare_tiff(RGB.tobytes(), 8, 2, 3, [(281, 255)]), COLOUR)
    np.testing.assert_array_equal(found.transpose(1, 2, 0), RGB)
    assert largest is None


def test_white_of_256_is_of_more_than_8_bits():
    assert decode(pgm(values(256), 256), GREY)[0].max() == 255


@pytest.mark.parametrize("write", [pgm, plain_pgm])
def test_a_dark_image_is_kept_where_its_file_says_what_white_is(write):
    pixels, largest = decode(write(values(160), 4095), GREY)
    assert abs(int(pixels.max()) - 160 * 255 / 4095) <= 1
    assert largest is None


def test_16_bits_in_either_order_of_bytes_keep_the_upper_8():
    numbers = values(65535)
    large = Image.new("I;16B", (WIDTH, HEIGHT))
    large.frombytes(numbers.astype(">u2").tobytes())
    for content in (
        encoded(large, "TIFF"),
        tiff(numbers),
        png16(numbers),
        png16(numbers, alpha=True),
        pgm(numbers, 65535),
    ):
        pixels, largest = decode(content, GREY)
        np.testing.assert_array_equal(pixels[0], numbers >> 8)
        assert largest == 65535
    for content in (png16(numbers, 3), png16(numbers, 3, alpha=True)):
        pixels, largest = decode(content, COLOUR)
        np.testing.assert_array_equal(pixels, np.stack([numbers >> 8] * 3))
        assert largest == 65535


WRITERS = {
    "png": png16,
    "png + alpha": lambda numbers: png16(numbers, alpha=True),
    "png rgb": lambda numbers: png16(numbers, 3),
    "png rgba": lambda numbers: png16(numbers, 3, alpha=True),
    "tiff": tiff,
    "pgm": lambda numbers: pgm(numbers, 65535),
    "plain pgm": lambda numbers: plain_pgm(numbers, 65535),
    "ppm": lambda numbers: ppm(numbers, 65535),
}


@pytest.mark.parametrize("top", [1, 255, 1023, 4095])
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_fewer_bits_in_a_file_of_16_are_refused_with_the_largest_value(write, top):
    message = refused(write(values(top)), COLOUR)
    assert message.endswith("so almost black: save them with 8 bits, or over all of 0 to 65535")
    if write in (tiff, png16):
        assert message.startswith(f"16-bit pixels up to {top} only, ")
    if write is WRITERS["png rgb"]:  # of which the upper 8 bits are known
        assert message.startswith(f"16-bit colours of at most {max(top, 255)}, ")


def test_the_colours_of_a_ppm_are_rounded_to_8_bits():
    assert refused(ppm(values(4112), 65535), COLOUR).startswith("16-bit colours of at most 4240, so almost black: ")
    for top, largest in ((4369, 4497), (65535, 65535)):
        assert decode(ppm(values(top), 65535), COLOUR)[1] == largest


@pytest.mark.parametrize("write", [WRITERS[name] for name in ("png", "png rgb", "tiff", "pgm")])
def test_a_dark_image_that_uses_more_bits_is_kept(write):
    pixels, largest = decode(write(values(4096)), GREY)
    assert pixels.max() == 16
    assert largest == (4096 + 255 if write is WRITERS["png rgb"] else 4096)


def test_a_black_image_of_16_bits_stays_black():
    for write in (WRITERS["png"], tiff, WRITERS["pgm"]):
        assert decode(write(np.zeros((HEIGHT, WIDTH), int)), GREY)[0].tolist() == np.zeros((1, HEIGHT, WIDTH)).tolist()


@pytest.mark.parametrize(("largest", "fits"), [(32767, False), (32768, True)])
def test_images_that_all_use_less_than_half_of_16_bits_are_refused_with_the_largest(largest, fits):
    files = {
        "a.png": png16(values(9000)),
        "b.tif": tiff(values(largest)),
        "c.png": encoded(Image.fromarray(RGB), "PNG"),
    }

    def act():
        return read_images(list(files), files.__getitem__, GREY, threads=1)

    if fits:
        assert torch.equal(act()[1, 0], torch.tensor(values(largest) >> 8).byte())
    else:
        assert refusal(act) == (
            f"data: images of 16 bits use less than half of them, their largest value is {largest} (b.tif), and they "
            "would be dark: save them with 8 bits, or over all of 0 to 65535"
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tiff(values(255), dtype=np.int32), "values from 0 to 255, and nothing says which of them is white"),
        (tiff(values(65535), dtype=np.int32), "values from 0 to 65535, and nothing says which of them is white"),
        (tiff(values(255, low=-3), dtype=np.int32), "values from -3 to 255, and nothing"),
        (tiff(values(255, low=-3), dtype=np.int32, largest=255), "values from -3 to 255, of 0 to 255 as its tags say"),
        (tiff(values(4096), largest=4095), "values from 0 to 4096, of 0 to 4095 as its tags say"),
        (tiff(values(3000), largest=3000), "16-bit pixels up to 3000 only"),  # how far one image goes says no depth
    ],
)
def test_values_of_no_known_range_are_refused(content, message):
    assert message in refused(content)
    assert refused(content).endswith(": save them with 8 bits, or over all of 0 to 65535")


def test_what_is_wrong_with_an_image_is_said_in_whole(tmp_path):
    assert refused(tiff(values(255), dtype=np.float32)) == "floating-point pixels"
    whole = encoded(Image.fromarray(RGB), "PNG")
    changed = bytearray(whole)
    changed[whole.index(b"IDAT") + 8] ^= 1
    assert refused(bytes(changed), COLOUR) == "damaged: a checksum differs"
    assert refused(whole[: whole.index(b"IEND") - 4], COLOUR) == "cut off"
    (tmp_path / "a.png").write_bytes(whole + b"more")
    np.testing.assert_array_equal(decode(read_file(tmp_path / "a.png"), COLOUR)[0].transpose(1, 2, 0), RGB)


# -- flat images


def test_an_image_that_would_become_flat_is_named():
    numbers = np.full((HEIGHT, WIDTH), 30000)
    assert decode(png16(numbers), GREY)[0].tolist() == np.full((1, HEIGHT, WIDTH), 30000 >> 8).tolist()
    numbers[3, 4] = 30100  # the same upper bits
    flat = "one flat colour in 8 bits, although its file holds more: save what is to be seen"
    assert refused(png16(numbers)) == flat
    # what is drawn by transparency alone
    drawn = np.dstack([np.zeros((HEIGHT, WIDTH, 3), np.uint8), RGB[:, :, 0]])
    assert refused(encoded(Image.fromarray(drawn), "PNG"), COLOUR) == flat
    # two colours of one luma
    striped = (
        np.where(np.arange(WIDTH)[None, :, None] % 2, [76, 76, 76], [254, 0, 0]).repeat(HEIGHT, 0).astype(np.uint8)
    )
    assert refused(encoded(Image.fromarray(striped), "PNG")) == flat
    np.testing.assert_array_equal(
        decode(encoded(Image.fromarray(striped), "PNG"), COLOUR)[0], striped.transpose(2, 0, 1)
    )


def test_a_flat_image_is_kept():
    flat = np.full((HEIGHT, WIDTH, 3), 7, np.uint8)
    for kind in ("PNG", "BMP", "TIFF", "GIF"):
        assert (decode(encoded(Image.fromarray(flat), kind), COLOUR)[0] == 7).all()
    indices = Image.frombytes("P", (WIDTH, HEIGHT), (np.arange(80, dtype=np.uint8) % 4).tobytes())
    indices.putpalette([9, 9, 9] * 4)  # one colour under four numbers
    for content in (encoded(indices, "PNG"), encoded(indices.convert("PA"), "TIFF")):
        assert (decode(content, COLOUR)[0] == 9).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_palette_is_read_as_its_colours(kind):
    numbers = np.arange(80, dtype=np.uint8).reshape(HEIGHT, WIDTH) % 4
    indices = Image.frombytes("P", (WIDTH, HEIGHT), numbers.tobytes())
    indices.putpalette(RGB[0, :4].tobytes())
    for image in (indices, indices.convert("PA")) if kind == "TIFF" else (indices,):
        np.testing.assert_array_equal(decode(encoded(image, kind), COLOUR)[0].transpose(1, 2, 0), RGB[0, :4][numbers])
        grey = Image.fromarray(RGB[0, :4][numbers]).convert("L")  # rounded, as that of other images
        np.testing.assert_array_equal(decode(encoded(image, kind), GREY)[0][0], np.asarray(grey))


@pytest.mark.filterwarnings("error")
def test_a_palettes_transparency_is_dropped_without_a_warning():
    indices = Image.frombytes("P", (WIDTH, HEIGHT), (np.arange(80, dtype=np.uint8) % 4).tobytes())
    indices.putpalette(RGB[0, :4].tobytes())
    clear = {"transparency": bytes([0, 128, 255, 255])}
    for look in (COLOUR, GREY):
        shown, found = (decode(encoded(indices, "PNG", **more), look)[0] for more in ({}, clear))
        np.testing.assert_array_equal(found, shown)


# -- kinds


def test_kinds_of_pixels_are_converted():
    image = Image.fromarray(RGB)
    profiles = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
    lab = ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    for content, largest in (
        (encoded(image.convert("CMYK"), "TIFF"), 0),
        (encoded(image.convert("CMYK"), "JPEG", quality=100, subsampling=0), 3),
        (encoded(image.convert("YCbCr"), "TIFF"), 3),
        (encoded(image, "WEBP", lossless=True), 0),
    ):
        assert np.abs(decode(content, COLOUR)[0].transpose(1, 2, 0) - RGB.astype(int)).max() <= largest
    # Pillow before 12 refuses it
    with contextlib.suppress(ValueError):
        found = decode(encoded(lab, "TIFF"), COLOUR)[0].transpose(1, 2, 0)
        assert np.abs(found - RGB.astype(int)).mean() < 2


def test_other_kinds_of_files_are_not_opened():
    image = Image.fromarray(RGB)
    for kind in ("EPS", "ICO", "TGA", "PCX", "PDF", "DDS", "SGI"):
        assert "cannot identify" in refused(encoded(image, kind), COLOUR)
    assert "cannot identify" in refused(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 8\nshowpage\n")


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "GIF"])
def test_images_of_several_frames_are_refused(kind):
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert refused(content, COLOUR) == "an animation, or of several pages"


def test_the_second_picture_in_a_cameras_jpeg_is_left_alone():
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    content = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:], quality=100, subsampling=0)
    assert np.abs(decode(content, COLOUR)[0].transpose(1, 2, 0) - RGB.astype(int)).max() <= 3


def test_an_orientation_is_applied_to_16_bits_too():
    numbers = values(65535).astype(np.uint16).T.copy()
    image, exif = Image.fromarray(numbers), Image.Exif()
    exif[0x0112] = 6
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(decode(encoded(image, kind, exif=exif), GREY)[0][0], np.rot90(numbers >> 8, -1))
        assert size_of(encoded(image, kind, exif=exif)) == (HEIGHT, WIDTH)


# -- damage and size


def test_an_image_of_another_size_is_refused_or_cut_and_scaled():
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (20, 21, 3), dtype=np.uint8))
    assert refused(encoded(image, "PNG"), COLOUR) == "21 x 20 pixels, not 10 x 8"
    found, _ = decode(encoded(image, "PNG"), Look((3, HEIGHT, WIDTH), resize=True))
    expected = ImageOps.fit(image, (WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(found.transpose(1, 2, 0), np.asarray(expected))


def test_each_image_is_in_its_row_however_many_threads(monkeypatch):
    threads = []

    class Watched(ThreadPoolExecutor):
        def __init__(self, count):
            threads.append(count)
            super().__init__(count)

    monkeypatch.setattr(bat.data.decoding, "ThreadPoolExecutor", Watched)
    monkeypatch.setattr(bat.data.decoding, "_BLOCK", 2)
    files = {f"{shift}.png": encoded(Image.fromarray(RGB + np.uint8(shift)), "PNG") for shift in range(5)}
    found = read_images(list(files), files.__getitem__, COLOUR, threads=3)
    for shift in range(5):
        np.testing.assert_array_equal(found[shift].permute(1, 2, 0), RGB + np.uint8(shift))
    assert threads == [3]
    assert found.dtype == torch.uint8
    for name in ("1.png", "4.png"):
        files[name] = b"text"
    assert refusal(lambda: read_images(list(files), files.__getitem__, COLOUR, threads=3)) == (
        "data: 2 of 5 files cannot be used: 1.png (not an image of a kind that is read), 4.png (not an image of a kind "
        "that is read): fix them"
    )


def test_each_changed_byte_of_a_pngs_pixels_is_seen():
    content = encoded(Image.fromarray(RGB), "PNG")
    start = content.index(b"IDAT")
    for place in range(start, len(content) - 12):
        changed = bytearray(content)
        changed[place] ^= 1
        with pytest.raises((ValueError, OSError, SyntaxError)):
            decode(bytes(changed), COLOUR)


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "GIF", "BMP", "JPEG", "PPM"])
def test_a_file_that_is_cut_off_is_refused(kind):
    content = encoded(Image.fromarray(np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)), kind)
    look = Look((3, 64, 64), resize=False)
    decode(content, look)
    for share in (0.0, 0.01, 0.5, 0.95):
        with pytest.raises((ValueError, OSError, SyntaxError)):
            decode(content[: int(share * len(content))], look)


def test_the_limit_on_pixels(monkeypatch):
    monkeypatch.setattr(bat.data.decoding, "LARGEST_IMAGE", WIDTH * HEIGHT)
    assert decode(encoded(Image.fromarray(RGB), "PNG"), COLOUR)[0].shape == (3, HEIGHT, WIDTH)
    monkeypatch.setattr(bat.data.decoding, "LARGEST_IMAGE", WIDTH * HEIGHT - 1)
    assert refused(encoded(Image.fromarray(RGB), "PNG"), COLOUR) == "10 x 8 pixels, of which 79 are the most"


@pytest.mark.parametrize(("width", "height"), [(8001, 10_000), (9000, 9500), (12_000, 12_000), (60_000, 60_000)])
def test_an_image_over_the_limit_is_refused_before_it_is_decoded(width, height):
    assert LARGEST_IMAGE == 80_000_000
    bomb = png([b""], 8, 0, width, height)
    line = refusal(lambda: read_images(["a.png"], lambda _: bomb, GREY, threads=1))
    assert "80,000,000" in line
    assert width * height < 4 * LARGEST_IMAGE or " (more than 80,000,000 pixels): " in line
    with pytest.raises(Exception, match=r"80,000,000|decompression bomb"):
        size_of(bomb)


def test_more_images_than_the_memory_holds_are_refused(monkeypatch):
    content = encoded(Image.fromarray(RGB), "PNG")

    def act():
        return read_images(["a"] * 3, lambda _: content, COLOUR, threads=1)

    monkeypatch.setattr(bat.io.given, "free_memory", lambda: 3 * RGB.size)
    assert act().shape == (3, 3, HEIGHT, WIDTH)
    monkeypatch.setattr(bat.io.given, "free_memory", lambda: 3 * RGB.size - 1)
    assert refusal(act) == (
        "data: 3 images of 10 x 8 pixels would take 0.0 GiB of memory, and 0.0 GiB are free: lower data.size or "
        "subsample"
    )


def test_a_file_of_more_bytes_than_the_limit_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    with path.open("wb") as file:
        file.truncate(LARGEST_FILE + 1)  # takes no room on the disk
    with pytest.raises(ValueError, match="a file of more than 1 GiB"):
        read_file(path)
    path.write_bytes(b"short")
    assert read_file(path) == b"short"
    monkeypatch.setattr(bat.data.decoding, "LARGEST_FILE", 5)
    assert read_file(path) == b"short"
    path.write_bytes(b"longer")
    with pytest.raises(ValueError, match="a file of more than"):
        read_file(path)
