"""Package definition of vistok.

Some code lives in top-level folders (`tokenizers`, `generators`, ...) that carry no `__init__.py`; `vistok/` holds one
symlink per such folder and is the only import root.  Packages are found below that root, so the wheel holds real files.
"""

import runpy
from pathlib import Path

from setuptools import find_namespace_packages, setup

ROOT = Path(__file__).parent

setup(
    name='vistok',
    version=runpy.run_path(str(ROOT / 'vistok' / 'version.py'))['__version__'],
    description='Visual tokenizers, generators over their tokens, and token compression, in JAX.',
    long_description=(ROOT / 'README.md').read_text('utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    keywords=['image generation', 'image compression', 'jax', 'vector quantization', 'visual tokenizer', 'vqgan'],
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'License :: OSI Approved :: Apache Software License',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Multimedia :: Graphics',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Typing :: Typed',
    ],
    python_requires='>=3.11',
    packages=find_namespace_packages(include=['vistok', 'vistok.*']),
    package_data={
        'vistok': ['py.typed'],
        'vistok.compression.weights': ['*.md', '*.safetensors'],
        'vistok.pretrained': ['*.npz'],
    },
    include_package_data=False,
    entry_points={'console_scripts': ['vistok = vistok.cli:main']},
    install_requires=[
        'absl-py>=2.1',
        'array-record>=0.8.1',
        'clu>=0.0.12',
        'constriction>=0.5,<0.6',  # the format of compressed images rests on it
        'flax>=0.12.4',
        'grain>=0.2.15',
        'importlib_resources>=6',  # an undeclared requirement of tensorflow-datasets
        'jax>=0.10.0',
        'jaxtyping>=0.3.4',
        'ml_collections>=1.1.0',
        'numpy>=2.0',
        'optax>=0.2.7',
        'orbax-checkpoint>=0.12.0',
        'pillow>=11.0',
        'safetensors>=0.5',
        'scikit-image>=0.25',
        'scikit-learn>=1.6',
        'scipy>=1.14',
        'tensorboardX>=2.6.4',
        'tensorflow-datasets>=4.9.9',
        'tqdm>=4.67',
    ],
    extras_require={
        'cuda12': ['jax[cuda12]'],
        'cuda13': ['jax[cuda13]'],
        'cuda': ['jax[cuda13]'],  # the earlier name of cuda13, for this release
        'tpu': ['jax[tpu]'],
        'torch': ['torch>=2.6'],  # only to open .pt files
        'text': ['sentencepiece>=0.2', 'torch>=2.6', 'transformers>=4.56'],  # only for features of captions
        'test': [
            'beartype>=0.22',
            'mypy>=1.18',
            'pre-commit>=4',
            'pytest>=8.4',
            'pytest-xdist>=3.8',
            'ruff>=0.14',
            'setuptools>=77',
        ],
    },
)
