"""The one exception type for mistakes a user can mend."""


class UserError(Exception):
    """Bad input, a wrong setting, a missing file: the message is one complete sentence, shown without a traceback."""
