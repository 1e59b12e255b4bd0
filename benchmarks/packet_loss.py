"""Cost of lost packets: restoration by nearest neighbours against a masked-token transformer.

    python benchmarks/packet_loss.py --weights runs/vqgan-digits --restore runs/maskgit

Every image is compressed into packets, and each packet is lost with the same chance; of one image at least one
arrives.  What is lost at a small share is lost at a larger one as well, and both ways to restore see the same losses.
Reported, as CSV and as a figure with images: PSNR and perceptual distance of whole images, and how many of the lost
ids were restored exactly.
"""

import argparse
import csv
import dataclasses
import pathlib

import numpy as np

from vistok.compression.codec import Codec
from vistok.compression.format.bitstream import BitstreamReader
from vistok.compression.format.packets import PacketShape, find_packets, read_packet_shape, serialize_packet
from vistok.compression.format.token_file import read_partial_tokens
from vistok.compression.loss_concealment import Restorer, copy_nearest_known
from vistok.data.images.pipeline import evaluation_batches, open_source, to_model_range
from vistok.experiments.codecs import open_codec, open_restorer
from vistok.metrics.image_quality import psnr
from vistok.pretrained.frozen_network import FrozenNetwork, load_frozen_network
from vistok.tokenizers.tokenizer import Tokens
from vistok.visualization import to_uint8

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4)
SHOWN = 12  # images in the figure


@dataclasses.dataclass(frozen=True)
class Row:
    """Results of one restoration method at one share of lost packets; means over images."""

    restored_by: str
    packets_lost: float
    tokens_lost: float
    psnr: float
    perceptual: float
    ids_right: float


def with_losses(data: bytes, chances: np.ndarray, share: float) -> bytes:
    """Removes the packets whose random number is below `share` from a file, but keeps at least one."""
    reader = BitstreamReader(data)
    shape = read_packet_shape(reader.header)
    assert shape is not None
    body = reader.read_rest(len(data))
    records = find_packets(body, reader.header, shape).records
    kept = [
        serialize_packet(number, record)
        for (number, record), chance in zip(records.items(), chances, strict=False)
        if chance >= share or chance == chances[: len(records)].max()
    ]
    return data[: len(data) - len(body)] + b''.join(kept)


def decode_damaged(
    codec: Codec, data: bytes, restore: Restorer, truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Decodes an image; returns it, the mask of received positions, and the share of lost ids restored exactly."""
    reader = BitstreamReader(data, codec.limits)
    received = read_partial_tokens(reader, codec.prior)
    ids = restore(np.asarray(received.tokens.ids)[0], received.known)
    right = (ids == truth).all(-1)[~received.known]
    image = codec.decode(Tokens(ids[None]), reader.header)
    return image, received.known, float(right.mean()) if right.size else 1.0


def measure(
    codec: Codec, originals: np.ndarray, restorers: dict[str, Restorer], network: FrozenNetwork, seed: int
) -> tuple[list[Row], dict[str, np.ndarray]]:
    """Measures all rows; returns them with images of each kind at the largest share."""
    rng = np.random.default_rng(seed)
    files = [codec.compress(image) for image in originals]
    truth = [np.asarray(codec.unpack(data).tokens.ids)[0] for data in files]
    chances = rng.random((len(files), 1 << 12))
    images = to_model_range(originals)
    rows, shown = list[Row](), {'original': originals[:SHOWN]}
    for share in SHARES:
        partial = [with_losses(data, chances[i], share) for i, data in enumerate(files)]
        for name, restore in restorers.items():
            found = [decode_damaged(codec, data, restore, ids) for data, ids in zip(partial, truth, strict=True)]
            made, known = np.stack([image for image, _, _ in found]), np.stack([there for _, there, _ in found])
            lossy = to_model_range(made)
            distance = float(np.asarray(network.module.apply(network.variables, images, lossy)).mean())
            hit = ~known.all((1, 2))
            right = float(np.mean([right for _, _, right in found], where=hit)) if hit.any() else 1.0
            lost = 1 - float(known.mean())
            rows.append(Row(name, share, lost, float(np.mean(psnr(images, lossy))), distance, right))
            print(rows[-1], flush=True)
            if share == 0:
                shown.setdefault('nothing lost', made[:SHOWN])
            if share == SHARES[-1]:
                scale = originals.shape[1] // known.shape[1], originals.shape[2] // known.shape[2]
                there = known[:SHOWN].repeat(scale[0], 1).repeat(scale[1], 2)[..., None]
                shown.setdefault(f'{share:.0%} lost', np.where(there, shown['nothing lost'], 128).astype(np.uint8))
                shown[name] = made[:SHOWN]
    return rows, shown


def draw(rows: list[Row], shown: dict[str, np.ndarray], path: pathlib.Path) -> None:
    """Draws three plots above, images below."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(11, 8), constrained_layout=True)
    grid = figure.add_gridspec(2, 3, height_ratios=(1, 1.35))
    panels = {
        'psnr': 'PSNR, dB',
        'perceptual': 'stand-in perceptual distance',
        'ids_right': 'lost ids restored exactly',
    }
    for column, (field, title) in enumerate(panels.items()):
        axis = figure.add_subplot(grid[0, column])
        for name in dict.fromkeys(row.restored_by for row in rows):
            points = [(row.tokens_lost, getattr(row, field)) for row in rows if row.restored_by == name]
            points = points[1:] if field == 'ids_right' else points
            axis.plot(*zip(*points, strict=True), marker='o', label=name)
        axis.set(title=title, xlabel='share of tokens lost')
        axis.grid(alpha=0.3)
        axis.legend()
    axis = figure.add_subplot(grid[1, :])
    framed = [np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=90) for images in shown.values()]
    axis.imshow(np.concatenate([np.concatenate(list(images), axis=1) for images in framed]))
    side = framed[0].shape[1]
    axis.set_yticks([side * (i + 0.5) for i in range(len(shown))], list(shown))
    axis.set_xticks([])
    figure.savefig(path, dpi=90, bbox_inches='tight')  # the names of the rows are wide


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--weights', required=True, help='run folder of the tokenizer')
    parser.add_argument('--restore', required=True, help='run folder of a maskgit on its tokens')
    parser.add_argument('--source', default='embedded:digits', help='images, of which the validation part is taken')
    parser.add_argument('--image_size', type=int, default=32)
    parser.add_argument('--count', type=int, default=100, help='originals')
    parser.add_argument('--packets', type=int, default=16, help='of each image')
    parser.add_argument('--seed', type=int, default=0, help='of the losses')
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('docs'))
    args = parser.parse_args()
    codec = dataclasses.replace(open_codec(args.weights, ''), packets=PacketShape.from_count(args.packets))
    restorers = {'nearest': copy_nearest_known, 'transformer': open_restorer(args.restore, codec.tokenizer)}
    source = open_source(args.source, 'validation')
    (batch, *_) = evaluation_batches(source, image_size=args.image_size, batch_size=args.count)
    images = to_uint8(batch['image'][batch['mask']])
    rows, shown = measure(codec, images, restorers, load_frozen_network('stand_in_perceptual'), args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / 'packet_loss.csv').open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in dataclasses.fields(Row)])
        writer.writerows([v if isinstance(v, str) else f'{v:.5g}' for v in dataclasses.astuple(row)] for row in rows)
    draw(rows, shown, args.out / 'packet_loss.png')


if __name__ == '__main__':
    main()
