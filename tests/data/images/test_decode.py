"""Every kind of image file becomes the 8-bit RGB image that the stated rules say, or a `BadImage` with a reason."""

import io
import struct
import zlib

import numpy as np
import pytest
from image_files import colour_image, encode
from PIL import Image

from vistok.data.images import decode
from vistok.data.images.decode import decode_image
from vistok.data.images.source import BadImage


@pytest.mark.parametrize('kind', ['PNG', 'BMP', 'TIFF', 'WEBP'])
def test_lossless_rgb_is_returned_unchanged(kind):
    image = colour_image(0)
    options = {'lossless': True} if kind == 'WEBP' else {}
    np.testing.assert_array_equal(decode_image(encode(image, kind, **options), 'x'), image)


def test_jpeg_is_close_to_what_was_encoded():
    image = colour_image(0)
    decoded = decode_image(encode(image, 'JPEG', quality=95), 'x')
    assert decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - image).mean() < 3


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'GIF'])
def test_grey_is_replicated(kind):
    grey = np.full((9, 7), 77, np.uint8)
    np.testing.assert_array_equal(decode_image(encode(grey, kind), 'x'), np.full((9, 7, 3), 77))


def test_black_and_white_becomes_0_and_255():
    image = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert('1')
    np.testing.assert_array_equal(decode_image(encode(image), 'x')[..., 0], [[0, 255], [255, 0]])


@pytest.mark.parametrize(('alpha', 'expected'), [(0, (255, 255, 255)), (255, (10, 60, 200)), (51, (206, 216, 244))])
def test_alpha_is_composited_over_white(alpha, expected):
    rgba = np.full((5, 6, 4), (10, 60, 200, alpha), np.uint8)
    np.testing.assert_allclose(decode_image(encode(rgba), 'x'), np.broadcast_to(expected, (5, 6, 3)), atol=1)


def test_grey_with_alpha_is_composited_over_white():
    decoded = decode_image(encode(Image.new('LA', (2, 2), (100, 0))), 'x')
    np.testing.assert_array_equal(decoded, np.full((2, 2, 3), 255))


def palette_image() -> Image.Image:
    image = Image.new('P', (2, 1))
    image.putpalette([200, 0, 0, 0, 0, 100])
    image.putdata([0, 1])
    return image


def test_palette_becomes_its_colours():
    np.testing.assert_array_equal(decode_image(encode(palette_image()), 'x'), [[[200, 0, 0], [0, 0, 100]]])


@pytest.mark.parametrize('transparency', [1, b'\xff\x00'])
def test_transparent_palette_entry_becomes_white(transparency):
    data = encode(palette_image(), transparency=transparency)
    np.testing.assert_array_equal(decode_image(data, 'x'), [[[200, 0, 0], [255, 255, 255]]])


def test_transparent_colour_of_rgb_becomes_white():
    image = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    data = encode(image, transparency=(4, 5, 6))
    np.testing.assert_array_equal(decode_image(data, 'x'), [[[1, 2, 3], [255, 255, 255]]])


@pytest.mark.parametrize('kind', ['PNG', 'TIFF'])
def test_16_bit_grey_is_divided_by_257_and_rounded(kind):
    values = np.array([[0, 128, 129, 257, 32768, 65406, 65407, 65535]], np.uint16)
    decoded = decode_image(encode(values, kind), 'x')
    np.testing.assert_array_equal(decoded[0, :, 0], np.rint(values[0] / 257))
    assert (decoded[..., :1] == decoded).all()


def test_grey_beyond_16_bits_and_floating_point_are_refused():
    with pytest.raises(BadImage, match='outside of 16 bits'):
        decode_image(encode(Image.fromarray(np.full((2, 2), 70000, np.int32)), 'TIFF'), 'x')
    with pytest.raises(BadImage, match='floating-point'):
        decode_image(encode(Image.fromarray(np.ones((2, 2), np.float32)), 'TIFF'), 'x')


def test_cmyk_becomes_rgb():
    image = Image.new('CMYK', (8, 8), (0, 255, 255, 0))
    np.testing.assert_allclose(
        decode_image(encode(image, 'JPEG', quality=100), 'x'), np.full((8, 8, 3), (255, 0, 0)), atol=3
    )


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = colour_image(3, 6, 10)
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode_image(encode(np.ascontiguousarray(turned), exif=exif), 'x'), upright)


@pytest.mark.filterwarnings('ignore:Corrupt EXIF data')  # Pillow says so, once
def test_damaged_exif_is_ignored():
    image = colour_image(1)
    data = encode(image, 'JPEG', quality=95, exif=b'Exif\x00\x00II*\x00\xff\xff\xff\xffgarbage')
    np.testing.assert_array_equal(decode_image(data, 'x'), decode_image(encode(image, 'JPEG', quality=95), 'x'))


def test_first_frame_of_an_animation_counts():
    frames = [Image.new('RGB', (4, 4), color) for color in ('red', 'blue')]
    file = io.BytesIO()
    frames[0].save(file, 'GIF', save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode_image(file.getvalue(), 'x'), np.full((4, 4, 3), (255, 0, 0)))


def test_every_truncation_is_a_bad_image_with_its_name():
    for kind in ('PNG', 'JPEG'):
        data = encode(colour_image(2), kind)
        for length in range(0, len(data) - 20, 37):
            with pytest.raises(BadImage, match=r'^some\.jpg: the file '):
                decode_image(data[:length], 'some.jpg')


def test_damaged_bytes_decode_or_are_bad_images():
    rng = np.random.default_rng(0)
    for kind in ('PNG', 'JPEG', 'GIF', 'TIFF', 'BMP', 'WEBP'):
        data = encode(colour_image(2), kind)
        reasons = []
        for _ in range(40):
            damaged = bytearray(data)
            for place in rng.integers(0, len(data), 8):
                damaged[place] = rng.integers(256)
            try:
                assert decode_image(bytes(damaged), 'x').shape[2] == 3
            except BadImage as error:
                reasons.append(error.reason)
        assert reasons or kind == 'BMP'
        assert all(reason and '\n' not in reason for reason in reasons)


@pytest.mark.parametrize(
    ('data', 'reason'),
    [(b'', 'the file is empty'), (b'<html>no</html>', 'the file is not an image in a known format')],
)
def test_what_is_no_image_says_so(data, reason):
    with pytest.raises(BadImage) as caught:
        decode_image(data, 'a/b.png')
    assert (caught.value.name, caught.value.reason, str(caught.value)) == ('a/b.png', reason, f'a/b.png: {reason}')


@pytest.mark.parametrize('side', [12_000, 60_000])
def test_decompression_bomb_is_refused_before_decoding(side):
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))

    header = chunk(b'IHDR', struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0))
    data = b'\x89PNG\r\n\x1a\n' + header + chunk(b'IDAT', zlib.compress(bytes(100))) + chunk(b'IEND', b'')
    with pytest.raises(BadImage, match='above the limit of 89478485 pixels'):
        decode_image(data, 'bomb.png')


def test_our_own_limit_is_checked(monkeypatch):
    monkeypatch.setattr(decode, 'MAX_PIXELS', 24 * 32 - 1)
    with pytest.raises(BadImage, match='32x24 is above the limit of 767 pixels'):
        decode_image(encode(colour_image(0)), 'x')
