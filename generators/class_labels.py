"""Class labels of conditional generators: class ids from names or numbers, and their range."""

import difflib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from vistok.errors import UserError


def find_classes(words: Sequence[str], names: Sequence[str]) -> tuple[int, ...]:
    """Returns the ids of classes given by number or name.

    Args:
      words: numbers or names; `['all']` means every class.  A word that is a class's name means that class, even if it
        is a number as well.
      names: of all classes, in the order of their ids.

    Raises:
      UserError: there is no such class.
    """
    if list(words) == ['all']:
        return tuple(range(len(names)))
    found = []
    for word in words:
        if word in names:
            found.append(list(names).index(word))
        elif word.isdecimal() and int(word) < len(names):
            found.append(int(word))
        else:
            close = difflib.get_close_matches(word, names, n=1)
            hint = f'; did you mean {close[0]!r}?' if close else ''
            raise UserError(f'there is no class {word!r}: classes are 0 .. {len(names) - 1} or their names{hint}')
    return tuple(found)


def check_class_ids(ids: Int[np.ndarray, '...'], num_classes: int) -> None:
    """Refuses class ids that a generator lacks; `num_classes` is the null class of classifier-free guidance.

    Raises:
      UserError: an id is outside of 0 .. `num_classes`.
    """
    if ids.size and not (ids.min() >= 0 and ids.max() <= num_classes):
        wrong = ids.min() if ids.min() < 0 else ids.max()
        last = num_classes - 1
        raise UserError(f'there is no class {wrong}: classes are 0 to {last}, and {num_classes} asks for nothing')
