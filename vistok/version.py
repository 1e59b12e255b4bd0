"""Version of the package, read by `setup.py` and given to users as `vistok.__version__`."""

__version__ = '0.2.0.dev0'
