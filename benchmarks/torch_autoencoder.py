"""VQGAN's encoder, quantizer and decoder in PyTorch, for timing beside ours (`train_step.py`).

Written from the architecture (Esser et al. 2021; Sun et al. 2024), with the widths and depths of `VQGAN` as arguments.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


def norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, width), width, eps=1e-6)


class Residual(nn.Module):
    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            norm(width_in),
            nn.SiLU(),
            nn.Conv2d(width_in, width, 3, padding=1),
            norm(width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.shortcut = nn.Conv2d(width_in, width, 1) if width_in != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.body(x)


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = norm(width)
        self.q, self.k, self.v, self.out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = (conv(y).flatten(2).transpose(1, 2)[:, None] for conv in (self.q, self.k, self.v))
        y = functional.scaled_dot_product_attention(q, k, v)[:, 0]
        return x + self.out(y.transpose(1, 2).unflatten(2, x.shape[2:]))


class Down(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.pad(x, (0, 1, 0, 1)))


def middle(width: int) -> list[nn.Module]:
    return [Residual(width, width), Attention(width), Residual(width, width)]


def encoder(channels: int, multipliers: Sequence[int], res_blocks: int, latent_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1)]
    width = channels
    for level, multiplier in enumerate(multipliers):
        coarsest = level == len(multipliers) - 1
        for _ in range(res_blocks):
            layers.append(Residual(width, channels * multiplier))
            width = channels * multiplier
            if coarsest:
                layers.append(Attention(width))
        if not coarsest:
            layers.append(Down(width))
    return nn.Sequential(
        *layers, *middle(width), norm(width), nn.SiLU(), nn.Conv2d(width, latent_channels, 3, padding=1)
    )


def decoder(channels: int, multipliers: Sequence[int], res_blocks: int, latent_channels: int) -> nn.Sequential:
    width = channels * multipliers[-1]
    layers: list[nn.Module] = [nn.Conv2d(latent_channels, width, 3, padding=1), *middle(width)]
    for level, multiplier in reversed(list(enumerate(multipliers))):
        for _ in range(res_blocks + 1):
            layers.append(Residual(width, channels * multiplier))
            width = channels * multiplier
            if level == len(multipliers) - 1:
                layers.append(Attention(width))
        if level:
            layers += [nn.Upsample(scale_factor=2, mode='nearest'), nn.Conv2d(width, width, 3, padding=1)]
    return nn.Sequential(*layers, norm(width), nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1))


class Autoencoder(nn.Module):
    """One codebook of unit-norm codewords, straight-through gradient; the loss is that of `compare_with_torch`."""

    def __init__(
        self,
        channels: int,
        multipliers: Sequence[int],
        res_blocks: int,
        latent_channels: int,
        codebook_size: int,
        codebook_dim: int,
    ) -> None:
        super().__init__()
        sizes = (channels, multipliers, res_blocks, latent_channels)
        self.encoder, self.decoder = encoder(*sizes), decoder(*sizes)
        self.before = nn.Conv2d(latent_channels, codebook_dim, 1)
        self.after = nn.Conv2d(codebook_dim, latent_channels, 1)
        self.codewords = nn.Parameter(functional.normalize(torch.randn(codebook_size, codebook_dim), dim=-1))

    def forward(self, images: Tensor) -> Tensor:
        """Computes the loss of `images` in [-1, 1], [b, 3, h, w]."""
        z = functional.normalize(self.before(self.encoder(images)).float().permute(0, 2, 3, 1), dim=-1)
        rows = functional.normalize(self.codewords, dim=-1)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            ids = (z.flatten(0, 2) @ rows.T).argmax(1)  # of unit vectors the nearest has the largest product
        chosen = rows[ids].view_as(z)
        z_q = z + (chosen - z).detach()
        reconstruction = self.decoder(self.after(z_q.permute(0, 3, 1, 2))).float()
        codebook, commitment = ((chosen - z.detach()) ** 2).mean(), ((z - chosen.detach()) ** 2).mean()
        return ((reconstruction - images) ** 2).mean() + codebook + 0.25 * commitment


class TorchMeasurement:
    """A model on PyTorch's best device.

    TensorFloat-32 is allowed, as in XLA's default.

    Attributes:
      description: version and device.
      parameter_sizes: number of elements of each parameter.
    """

    def __init__(self, model: Autoencoder) -> None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        self.device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
        self.model = model.to(self.device)
        name = torch.cuda.get_device_name() if self.device.type == 'cuda' else f'CPU, {torch.get_num_threads()} threads'
        self.description = f'PyTorch {torch.__version__} ({name})'
        self.parameter_sizes = [parameter.numel() for parameter in model.parameters()]

    def call(self, images: np.ndarray, dtype: str, channels_last: bool) -> Callable[[], None]:
        """Runs a forward and backward pass over `images` [b, h, w, 3] and waits for its end."""
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model.to(memory_format=layout)
        placed = torch.tensor(images).permute(0, 3, 1, 2).to(self.device).contiguous(memory_format=layout)

        def run() -> None:
            self.model.zero_grad(set_to_none=True)
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=dtype == 'bfloat16'):
                loss = self.model(placed)
            loss.backward()
            if self.device.type == 'cuda':
                torch.cuda.synchronize()

        return run
