"""What tables are counted on."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from vistok.experiments.calibration import CalibrationImages, crop_center


@pytest.fixture
def images(tmp_path):
    """Three images of other sizes; where each has 255 is its own affair."""
    path = tmp_path / 'pictures.zip'
    with zipfile.ZipFile(path, 'w') as archive:
        for i, (height, width) in enumerate([(32, 48), (64, 40), (20, 100)]):
            file = io.BytesIO()
            Image.fromarray(np.full((height, width, 3), 60 * i, np.uint8)).save(file, 'PNG')
            archive.writestr(f'{i}.png', file.getvalue())
    return str(path)


def test_the_middle_is_cut_and_not_resized():
    image = np.arange(7 * 9 * 3, dtype=np.uint8).reshape(7, 9, 3)
    np.testing.assert_array_equal(crop_center(image, 3), image[2:5, 3:6])
    np.testing.assert_array_equal(crop_center(image, 8), image[:, :8])


def test_squares_have_one_size_and_images_their_own(images):
    squares = CalibrationImages(images, 3, crop=16)
    assert {image.shape for image in squares} == {(16, 16, 3)}
    wholes = CalibrationImages(images, 3)
    sizes = [image.shape for image in wholes]
    assert len(set(sizes)) == len(sizes) == wholes.read > 1
