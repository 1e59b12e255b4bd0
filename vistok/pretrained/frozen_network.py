"""Frozen networks with pretrained weights: perceptual distances and feature teachers."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vistok.errors import UserError
from vistok.pretrained.clip import clip_b16, clip_l14
from vistok.pretrained.convert import (
    CLIP_IGNORED,
    CLIP_PATCHES_IGNORED,
    DINOV2_IGNORED,
    LPIPS_IGNORED,
    clip_rules,
    dinov2_rules,
    lpips_rules,
)
from vistok.pretrained.dinov2 import dinov2_s14
from vistok.pretrained.lpips import LPIPS
from vistok.pretrained.stand_in import StandInPatches, StandInPerceptual, StandInTeacher, stand_in_params
from vistok.weights.files import read_state_dict
from vistok.weights.rules import Rule, StateDict, to_ours, variable_shapes

# Digests of published files, as their publishers' own code states them.
_VGG16_FILE, _VGG16_SHA256_START = 'vgg16-397923af.pth', '397923af'
_HEADS_FILE, _HEADS_MD5 = 'vgg.pth', 'd507d7349b931f0638a25a48a722f98a'


@dataclasses.dataclass(frozen=True)
class FrozenNetwork:
    """Pretrained network whose weights are never trained.

    A perceptual metric returns the distances `[b]` of two batches of images in [-1, 1].  A teacher returns global
    features `[b, width]` of images in [-1, 1] of any size; with `patches`, and as 'stand_in_patches', a grid of
    features `[b, h, w, width]`.

    Attributes:
      name: name of the network and of every metric computed with it ('stand_in_perceptual' is not 'lpips').
      module: the network.
      variables: its weights; pass them to compiled functions as an argument, or they become constants of the program.
    """

    name: str
    module: nn.Module
    variables: Any

    def __call__(self, *images: Float[Array, 'b h w 3']) -> Float[Array, 'b ...']:
        """Applies the network to images in [-1, 1]."""
        return jnp.asarray(self.module.apply(self.variables, *images))


@dataclasses.dataclass(frozen=True)
class _Teacher:
    """Architecture, conversion rules and origin of a published teacher."""

    build: Callable[..., nn.Module]
    rules: Callable[[StateDict], tuple[Rule, ...]]
    ignored: Sequence[str]
    ignored_with_patches: Sequence[str]
    origin: str


_TEACHERS = {
    'clip_l14': _Teacher(clip_l14, clip_rules, CLIP_IGNORED, CLIP_PATCHES_IGNORED, 'openai/clip-vit-large-patch14'),
    'clip_b16': _Teacher(clip_b16, clip_rules, CLIP_IGNORED, CLIP_PATCHES_IGNORED, 'openai/clip-vit-base-patch16'),
    'dinov2_s': _Teacher(
        dinov2_s14, dinov2_rules, DINOV2_IGNORED, DINOV2_IGNORED, 'facebook/dinov2-small, or dinov2_vits14_pretrain.pth'
    ),
}
_STAND_INS: dict[str, Callable[..., nn.Module]] = {
    'stand_in_perceptual': StandInPerceptual,
    'stand_in_teacher': StandInTeacher,
    'stand_in_patches': StandInPatches,
}
FROZEN_NETWORKS = ('lpips', *_TEACHERS, *_STAND_INS)


def load_frozen_network(
    kind: str,
    path: str | os.PathLike[str] | None = None,
    *,
    sha256: str | None = None,
    **options: Any,
) -> FrozenNetwork:
    """Loads a pretrained network and its weights.

    Args:
      kind: one of `FROZEN_NETWORKS`.  The stand-ins come with the package; the others need a file of official weights.
      path: file of weights: `.safetensors`, or a PyTorch file (needs torch).  For 'lpips' either a folder that holds
        torchvision's `vgg16-397923af.pth` and the LPIPS heads `vgg.pth`, or one file with the full LPIPS state dict.
      sha256: expected digest of the file, checked if given; a single LPIPS file needs it, for no official one exists.
      **options: attributes of the module, such as `dtype`; for a published teacher also `resize_method='nearest'`, and
        `patches=True` for a feature per patch.

    Raises:
      UserError: an unknown kind, or a path for a stand-in.
      FileNotFoundError: the official weights are not there.
      UserError: the file is not what was published, or not what `sha256` says, or holds another model.
    """
    if kind not in FROZEN_NETWORKS:
        raise UserError(f'network {kind!r} is none of {", ".join(FROZEN_NETWORKS)}')
    if kind in _STAND_INS:
        if path is not None:
            raise UserError(f'{kind} comes with its weights; path {str(path)!r} cannot be used')
        module = _STAND_INS[kind](**options)
        params = stand_in_params()
        wanted = variable_shapes(module, *_images(module))['params']
        return FrozenNetwork(
            kind, module, {'params': {name: jax.tree.map(jnp.asarray, params[name]) for name in wanted}}
        )
    if kind == 'lpips':
        module = LPIPS(**options)
        weights = _lpips_weights(path, sha256)
        return _convert(kind, module, weights, lpips_rules(weights), LPIPS_IGNORED)
    teacher = _TEACHERS[kind]
    patches = options.get('patches', False)
    stand_in = 'stand_in_patches' if patches else 'stand_in_teacher'
    file = _existing(path, kind, f'the state dict of {teacher.origin}', stand_in)
    _check_sha256(file, sha256)
    weights = read_state_dict(file)
    ignored = teacher.ignored_with_patches if patches else teacher.ignored
    return _convert(kind, teacher.build(**options), weights, teacher.rules(weights), ignored)


def _images(module: nn.Module) -> tuple[jax.Array, ...]:
    """Returns example arguments of the module."""
    image = jnp.zeros((1, 32, 32, 3))
    return (image, image) if isinstance(module, LPIPS | StandInPerceptual) else (image,)


def _convert(
    kind: str, module: nn.Module, weights: StateDict, rules: Sequence[Rule], ignored: Sequence[str]
) -> FrozenNetwork:
    shapes = variable_shapes(module, *_images(module))
    variables = to_ours(rules, weights, shapes, ignored).variables
    return FrozenNetwork(kind, module, jax.tree.map(jnp.asarray, variables))


def _lpips_weights(path: str | os.PathLike[str] | None, sha256: str | None) -> StateDict:
    expected = (
        f'a folder with {_VGG16_FILE} (torchvision, VGG16, IMAGENET1K_V1) and {_HEADS_FILE} (LPIPS 0.1 heads for VGG), '
        'or one file with the full LPIPS state dict'
    )
    place = _existing(path, 'lpips', expected, 'stand_in_perceptual')
    if place.is_file():
        if sha256 is None:
            raise UserError(f'{place} has no published digest: give the sha256 it should have')
        _check_sha256(place, sha256)
        return read_state_dict(place)
    trunk, heads = (
        _existing(place / name, 'lpips', expected, 'stand_in_perceptual') for name in (_VGG16_FILE, _HEADS_FILE)
    )
    found = _digest(trunk, 'sha256')
    if not found.startswith(_VGG16_SHA256_START):
        raise UserError(f"{trunk} is not torchvision's file: its sha256 starts with {found[:8]}")
    if _digest(heads, 'md5') != _HEADS_MD5:
        raise UserError(f'{heads} is not the file of LPIPS heads: its md5 is {_digest(heads, "md5")}, not {_HEADS_MD5}')
    return {**read_state_dict(trunk), **read_state_dict(heads)}


def _existing(path: str | os.PathLike[str] | None, kind: str, expected: str, stand_in: str) -> pathlib.Path:
    if path is None or not pathlib.Path(path).exists():
        where = 'no path was given' if path is None else f'there is nothing at {path}'
        raise FileNotFoundError(f'{kind} needs {expected}, and {where}; without it use {stand_in!r}')
    return pathlib.Path(path)


def _digest(path: pathlib.Path, algorithm: str) -> str:
    with path.open('rb') as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _check_sha256(path: pathlib.Path, sha256: str | None) -> None:
    if sha256 is not None and (found := _digest(path, 'sha256')) != sha256.lower():
        raise UserError(f'{path} has the sha256 {found}, not {sha256}')
