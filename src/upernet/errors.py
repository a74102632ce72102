"""The one exception type that users meet."""


class UpernetError(Exception):
    """Something the user can fix: one sentence that says what is wrong and what to do.

    The command line prints it without a traceback and exits with status 2.
    """
