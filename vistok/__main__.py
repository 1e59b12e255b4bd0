"""Entry point of `python -m vistok`."""

from vistok.cli import main

if __name__ == '__main__':
    main()
