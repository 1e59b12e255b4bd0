"""Tables of benchmark results, as CSV and as Markdown."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path


def write_table(path: Path, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
    """Writes and prints a table whose first column holds the names of the rows.

    Args:
      path: without suffix; `.csv` and `.md` are written, their folder too.
      columns: names of all columns.
      rows: values of all columns but the first, as they are to be read.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f'| {" | ".join(columns)} |', '|---|' + '---:|' * (len(columns) - 1)]
    lines += [f'| {" | ".join([name, *values])} |' for name, values in rows.items()]
    path.with_suffix('.md').write_text('\n'.join(lines) + '\n')
    with path.with_suffix('.csv').open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([name, *values] for name, values in rows.items())
    print('\n'.join(lines))
