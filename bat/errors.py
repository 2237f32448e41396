"""The one exception for what a user can mend."""


class BatError(Exception):
    """An expected error, told in one line: what is wrong, where, and what to do.

    The command line prints it and exits with status 2. Anything else keeps its traceback.
    """
