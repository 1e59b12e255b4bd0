"""Exception class for mistakes that the user can correct."""


class UserError(ValueError):
    """Invalid input, setting or file, described in one complete sentence that commands print without a traceback."""
