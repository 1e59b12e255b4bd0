"""Captions of images and prompts: texts by image name, read from text files.

Three forms:
  FOLDER         images with a `.txt` file of the same name beside each, one caption a line; or, in the folder, a file
                 `captions.jsonl`
  FILE.jsonl     lines such as {"file_name": "cats/1.jpg", "text": "a cat"}; "text" may be a list of captions
  FILE.txt       one prompt a line, named by its number

Names of images are relative to the folder, with '/' between the parts, as in folders of tokens.
"""

import json
from pathlib import Path

from vistok.data.images.folder import ImageFolder
from vistok.errors import UserError

Captions = dict[str, tuple[str, ...]]
"""Texts of each image by its name; an image without any has one that is empty."""
_FILE = 'captions.jsonl'


def read_captions(source: str | Path) -> Captions:
    """Reads all captions of a source, sorted by name.

    Raises:
      UserError: there is nothing at `source`, it is damaged, or it holds no text.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        found = _of_folder(path)
    elif path.is_file() and path.suffix == '.jsonl':
        found = _of_lines(path)
    elif path.is_file() and path.suffix == '.txt':
        found = {f'{i:06d}': (text,) for i, text in enumerate(_lines(path))}
    else:
        raise UserError(f'{path} is neither a folder of images with captions, nor a .jsonl or .txt file')
    if not any(text for texts in found.values() for text in texts):
        raise UserError(
            f'{path} holds no captions: beside each image lies a .txt file of the same name, or in the folder {_FILE}'
        )
    return dict(sorted(found.items()))


def _of_folder(path: Path) -> Captions:
    images = ImageFolder(path, None)
    names = [images.file_name(i) for i in range(len(images))]
    if not (path / _FILE).is_file():
        beside = {name: (path / name).with_suffix('.txt') for name in names}
        return {name: (tuple(_lines(file)) if file.is_file() else ()) or ('',) for name, file in beside.items()}
    told = _of_lines(path / _FILE)
    if strange := sorted(set(told) - set(names)):
        raise UserError(f'{path / _FILE} has captions of {strange[0]}, and there is no such image')
    return {name: told.get(name, ('',)) for name in names}


def _of_lines(path: Path) -> Captions:
    found = {}
    for number, line in enumerate(_lines(path), 1):
        try:
            row = json.loads(line)
            name, text = row['file_name'], row['text']
            texts = (text,) if isinstance(text, str) else tuple(text)
            if not isinstance(name, str) or not texts or not all(isinstance(t, str) for t in texts):
                raise UserError(f'file_name is {name!r}, text is {text!r}')
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f'{path}: entry {number} is not of the form {{"file_name": "1.jpg", "text": "a cat"}}: {error}'
            ) from None
        found[name] = texts
    return found


def _lines(path: Path) -> list[str]:
    """Reads the lines of a text file that are not blank."""
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{path} cannot be read as UTF-8 text: {error}') from None
    return [line.strip() for line in lines if line.strip()]
