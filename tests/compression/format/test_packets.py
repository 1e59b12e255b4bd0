"""Packets: each stands by itself, and whatever happens to some of them, the others come back exactly."""

import dataclasses
import io
import math
import struct
import time
import zlib

import numpy as np
import pytest
from toy_image_tokenizer import ToyTokenizer

from vistok.compression.codec import Codec, build_header
from vistok.compression.format import packets
from vistok.compression.format.bitstream import BitstreamReader, BitstreamWriter, count_id_bits
from vistok.compression.format.description import describe
from vistok.compression.format.header import BitstreamError, Feature, encode_varint
from vistok.compression.format.packets import (
    MARKER,
    PACKETS_FEATURE,
    PacketShape,
    count_packets,
    find_packets,
    max_packet_bytes,
    packet_area,
    packet_areas,
    read_packet_shape,
)
from vistok.compression.format.token_file import read_partial_tokens
from vistok.compression.loss_concealment import copy_nearest_known
from vistok.compression.priors.fitting import fit_prior

WEIGHTS = b'weights!'


def image(seed=0, height=90, width=110, channels=3):
    rng = np.random.default_rng(seed)
    y, x = np.indices((height, width))[..., None]
    waves = np.sin(y / rng.uniform(5, 40, channels) + x / rng.uniform(5, 40, channels) + rng.uniform(0, 6, channels))
    return ((waves + 1) * 127).astype(np.uint8)


def codec_of(tokenizer, count, *, with_prior=False):
    """Tiles of 5 cells: odd ones, and at the border some too small for every packet."""
    codec = Codec(tokenizer, WEIGHTS, window=64, halo=16, tile=5, packets=PacketShape.from_count(count))
    if not with_prior:
        return codec
    words = [np.arange(size, dtype=np.float32)[:, None] for size in tokenizer.spec.codebook_sizes]
    prior = fit_prior([codec.encode(image(100 + i)) for i in range(3)], words, tokenizer.spec, clusters=(4,))
    return dataclasses.replace(codec, prior=prior)


@pytest.fixture(scope='module')
def codecs():
    return [
        codec_of(ToyTokenizer(), 4),
        codec_of(ToyTokenizer(), 6, with_prior=True),
        codec_of(ToyTokenizer(levels=5, codebooks=3), 4),
    ]


def packet_places(data):
    """Number and place in the file of each packet."""
    reader = BitstreamReader(data)
    shape = read_packet_shape(reader.header)
    body = reader.read_rest(len(data))
    first, places = len(data) - len(body), {}
    for number, record in find_packets(body, reader.header, shape).records.items():
        length = 2 + 1 + (2 if 2 * len(record.ids.data) > 126 else 1) + len(record.ids.data) + 6
        places[number] = slice(first, first + length)
        first += length
    assert first == len(data)
    return places


def arrived(codec, data):
    return read_partial_tokens(BitstreamReader(data, codec.limits), codec.prior)


def test_packets_are_as_square_as_their_number_allows():
    shapes = {2: (1, 2), 4: (2, 2), 5: (1, 5), 6: (2, 3), 12: (3, 4), 16: (4, 4), 64: (8, 8)}
    for count, (rows, columns) in shapes.items():
        assert PacketShape.from_count(count) == PacketShape(rows, columns)
    for count in (0, 1, 65):
        with pytest.raises(ValueError, match=f'a tile has 2 to 64 packets, got {count}'):
            PacketShape.from_count(count)


def test_every_cell_is_in_one_packet_and_its_neighbours_are_in_others(codecs):
    for codec in codecs:
        header = build_header(codec, image())
        owner = np.full(header.grid, -1)
        for part in packet_areas(header, codec.packets):
            assert (owner[part.slices] == -1).all()
            owner[part.slices] = part.number
            assert owner[part.slices].shape == (part.area.rows, part.area.columns)
        assert (owner >= 0).all()
        assert (owner[1:] != owner[:-1]).all()
        assert (owner[:, 1:] != owner[:, :-1]).all()


def test_tokens_come_back_exactly_and_contexts_begin_anew(codecs):
    for codec in codecs:
        original = image(1)
        tokens, data = codec.encode(original), codec.compress(original)
        found = codec.unpack(data).tokens
        np.testing.assert_array_equal(found.ids, tokens.ids)
        whole = dataclasses.replace(codec, packets=None)
        np.testing.assert_array_equal(codec.decompress(data), whole.decompress(whole.compress(original)))
        np.testing.assert_array_equal(whole.decompress(data), codec.decompress(data))  # the file says how it is made
        partial = whole.decompress_partial(data, copy_nearest_known)
        assert partial.lost == 0
        np.testing.assert_array_equal(partial.image, codec.decompress(data))
    assert describe(codecs[1].compress(original)).streams['ids, coded'] > 0


@pytest.mark.parametrize('damage', ['lost', 'flipped', 'cut short'])
def test_a_packet_that_is_gone_or_damaged_loses_only_its_own_ids(codecs, damage):
    rng = np.random.default_rng(0)
    for codec in codecs:
        original = image(2, 60, 50)
        tokens, data = codec.encode(original), codec.compress(original)
        places = packet_places(data)
        for part in packet_areas(build_header(codec, original), codec.packets):
            here, broken = places[part.number], bytearray(data)
            if damage == 'lost':
                del broken[here]
            elif damage == 'flipped':
                broken[int(rng.integers(here.start, here.stop))] ^= 1 << int(rng.integers(8))
            else:
                del broken[int(rng.integers(here.start + 1, here.stop)) : here.stop]
            found = arrived(codec, bytes(broken))
            expected = np.ones(found.known.shape, bool)
            expected[part.slices] = False
            np.testing.assert_array_equal(found.known, expected)
            np.testing.assert_array_equal(
                np.asarray(found.tokens.ids)[0][expected], np.asarray(tokens.ids)[0][expected]
            )
        with pytest.raises(BitstreamError, match=f'packets {part.number} of {len(places)} are missing'):
            codec.decompress(bytes(broken))


def test_of_a_file_that_was_cut_off_the_beginning_is_known(codecs):
    codec, original = codecs[0], image(3)
    tokens, data = codec.encode(original), codec.compress(original)
    places = packet_places(data)
    start, before = min(here.start for here in places.values()), 0
    for end in range(start, len(data) + 1, 23):
        if not any(here.stop <= end for here in places.values()):
            with pytest.raises(BitstreamError, match=f'none of the {len(places)} packets has arrived whole'):
                arrived(codec, data[:end])
            continue
        found = arrived(codec, data[:end])
        assert found.known.sum() >= before
        before = found.known.sum()
        np.testing.assert_array_equal(
            np.asarray(found.tokens.ids)[0][found.known], np.asarray(tokens.ids)[0][found.known]
        )
    half = arrived(codec, data[: (start + len(data)) // 2]).known
    lower = np.arange(len(half)) % codec.tile % 2 == 1
    assert not half[lower].any()  # the lower places everywhere, not the lower half of the image
    assert half[~lower].any(axis=1).all()


def test_packets_may_come_in_any_order_and_twice(codecs):
    codec, original = codecs[1], image(4)
    data = codec.compress(original)
    places = list(packet_places(data).values())
    start = min(here.start for here in places)
    turned = data[:start] + b''.join(data[here] for here in reversed(places)) + data[places[0]] + b'noise'
    assert arrived(codec, turned).lost == 0
    with pytest.raises(BitstreamError, match=f'{5 + places[0].stop - places[0].start} bytes are of no packet'):
        codec.decompress(turned)


def test_whatever_happens_no_wrong_id_is_taken_for_one_that_has_arrived(codecs):
    rng = np.random.default_rng(1)
    some = 0
    for codec in codecs:
        original = image(5, 60, 50)
        truth, data = np.asarray(codec.encode(original).ids)[0], codec.compress(original)
        start = min(here.start for here in packet_places(data).values())
        for _ in range(25):
            broken = bytearray(data)
            for _ in range(int(rng.integers(1, 30))):
                place = int(rng.integers(start, max(start + 1, len(broken))))
                kind = rng.integers(4)
                if kind == 0:
                    broken[place : place + 1] = rng.bytes(1)
                elif kind == 1:
                    del broken[place : place + int(rng.integers(9))]
                elif kind == 2:
                    broken[place:place] = rng.bytes(int(rng.integers(9)))
                else:
                    broken[place:place] = broken[start : start + int(rng.integers(60))]
            try:
                found = arrived(codec, bytes(broken))
            except BitstreamError:  # nothing has arrived
                continue
            some += 1
            np.testing.assert_array_equal(np.asarray(found.tokens.ids)[0][found.known], truth[found.known])
    assert some > 50


def test_other_weights_and_damaged_headers_are_refused_even_in_part(codecs):
    codec = codecs[0]
    data = codec.compress(image(6))
    with pytest.raises(BitstreamError, match='was written with weights'):
        Codec(ToyTokenizer(), b'other!!!').decompress_partial(data, copy_nearest_known)
    with pytest.raises(BitstreamError, match='the header is damaged'):
        codec.decompress_partial(data[:20] + b'?' + data[21:], copy_nearest_known)
    plain = dataclasses.replace(codec, packets=None)
    whole = plain.compress(image(6))
    assert codec.decompress_partial(whole, copy_nearest_known).lost == 0
    with pytest.raises(BitstreamError, match='the bitstream ends'):  # no packets: nothing can be spared
        codec.decompress_partial(whole[:-9], copy_nearest_known)
    for wrong in (b'', b'\x01', b'\x01\x01', b'\x09\x09', b'\x02\x02\x02'):
        header = dataclasses.replace(build_header(codec, image(6)), features=(Feature(PACKETS_FEATURE, wrong),))
        with pytest.raises(BitstreamError, match='about packets'):
            read_packet_shape(header)


def test_a_header_that_claims_millions_of_packets_costs_nothing(codecs):
    """Tiles of one cell, of an image that is as large as the limits allow."""
    header = dataclasses.replace(
        build_header(codecs[0], image()), width=8000, height=16_000, tile=1, downsample_factor=1, window=64, halo=0
    )
    file = io.BytesIO()
    writer = BitstreamWriter(file)
    writer.write_header(header)
    start = time.process_time()
    with pytest.raises(BitstreamError, match='none of the 128000000 packets has arrived whole'):
        read_partial_tokens(BitstreamReader(file.getvalue()), None)
    assert time.process_time() - start < 2
    assert count_packets(header, PacketShape(2, 2)) == 128_000_000
    assert max_packet_bytes(header, PacketShape(2, 2)) > 128_000_000


def test_the_number_of_packets_is_counted_without_going_through_them(codecs):
    for codec in codecs:
        for height, width in ((90, 110), (8, 8), (41, 300)):
            header = build_header(codec, image(0, height, width))
            listed = list(packet_areas(header, codec.packets))
            assert count_packets(header, codec.packets) == len(listed)
            assert [packet_area(header, codec.packets, part.number) for part in listed] == listed
            sizes = [count_id_bits(header.codebook_sizes) * part.area.rows * part.area.columns / 8 for part in listed]
            assert max_packet_bytes(header, codec.packets) >= sum(map(math.ceil, sizes)) + 10 * len(listed)
    beyond = header.tile_count * codec.packets.count
    assert packet_area(header, codec.packets, beyond) is packet_area(header, codec.packets, -1) is None


def test_packets_inside_of_each_other_take_time_in_proportion_to_the_file(codecs, monkeypatch):
    """Each of many beginnings claims all that follows; looking at all of it each time would be quadratic."""
    header = dataclasses.replace(build_header(codecs[0], image()), width=4096, height=4096, tile=512)
    data = b''.join([MARKER + b'\x00' + encode_varint(2 * 6000)] * 2000)
    seen = []
    monkeypatch.setattr(packets.zlib, 'crc32', lambda part, *_: seen.append(len(part)) or 0)
    assert find_packets(data, header, PacketShape(2, 2)).records == {}
    assert len(data) < sum(seen) < 9 * len(data)
    monkeypatch.undo()
    good = codecs[0].compress(image())
    assert arrived(codecs[0], good + data).lost == 0  # what lies before is found


def test_what_packets_cannot_hold_is_said():
    grains = Codec(ToyTokenizer(4, (1, 2, 4)), WEIGHTS, packets=PacketShape(2, 2))
    with pytest.raises(ValueError, match=r'packets hold tokens of one size, these have the grains \(1, 2, 4\)'):
        grains.compress(image())
    plain = Codec(ToyTokenizer(), WEIGHTS, packets=PacketShape(2, 2))
    with pytest.raises(ValueError, match='packets hold no transparency'):
        plain.compress(image(channels=4))


def test_each_packet_has_its_documented_bytes(codecs):
    data = codecs[0].compress(image(7))
    for number, here in packet_places(data).items():
        packet = data[here]
        assert packet[:3] == b'\xd7\x53' + bytes([number])
        assert struct.unpack('<I', packet[-4:])[0] == zlib.crc32(packet[:-4])


def test_a_description_counts_what_has_arrived(codecs):
    data = codecs[0].compress(image(8))
    places = packet_places(data)
    found = describe(data)
    assert sum(found.streams.values()) == found.size == len(data)
    assert dict(found.lines())['packets'] == f'{len(places)} of {len(places)}, ids dealt out by 2x2'
    assert dict(describe(data[:-1]).lines())['packets'].startswith(f'{len(places) - 1} of ')


def test_the_nearest_known_id_is_repeated():
    ids = np.arange(12).reshape(3, 4, 1)
    known = np.zeros((3, 4), bool)
    known[0, 0] = known[2, 3] = True
    assert copy_nearest_known(ids, known)[..., 0].tolist() == [[0, 0, 0, 11], [0, 0, 11, 11], [0, 11, 11, 11]]
    np.testing.assert_array_equal(copy_nearest_known(ids, np.ones((3, 4), bool)), ids)
