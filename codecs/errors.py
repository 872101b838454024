"""The one exception for what a user can mend."""


class UserError(Exception):
    """Bad input or usage. The message is one line: what was given, what was expected, what to do.

    The command line prints it and exits with status 2.
    """
