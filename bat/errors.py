"""The one exception for what a user can mend."""


class BatError(Exception):
    """An expected error, told in one line: what is wrong, where, and what to do.

    The command line prints it and exits with status 2. Anything else keeps its traceback.
    """

    def __str__(self) -> str:
        """Return the message; what cannot be printed in one line, say of a user's file names, is escaped."""
        return "".join(
            char if char.isprintable() else char.encode("unicode_escape").decode() for char in super().__str__()
        )
