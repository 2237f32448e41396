"""The one exception for what a user can fix, and how errors become one line."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class BatError(Exception):
    """An expected error, told in one line: what is wrong, where, and what to do. Several arguments are as many errors.

    The command line prints it and exits with status 2. Anything else keeps its traceback.
    """

    def __str__(self) -> str:
        """Return a line for each error; what cannot be printed, say of a user's file names, is escaped."""
        return "\n".join(map(one_line, self.args))


class Stopped(SystemExit):
    """The process was asked to stop: 128 and the signal's number is its exit status."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM, and SIGINT (Ctrl-C) too, raise ``Stopped``: what was begun is cleaned up, and the status says which.

    Not for imports: C++ code of a library, that meets an exception while it is loaded, aborts the process.
    """

    def stop(number: int, _: object) -> None:
        raise Stopped(128 + number)

    # signals are the main thread's alone
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # one that is ignored, as Ctrl-C is by what a shell runs in the background, stays so
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def one_line(text: object, longest: int = 2000) -> str:
    """Return a text in one line that every terminal can show: what cannot be printed is escaped."""
    plain = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(text).strip()
    )
    return plain if len(plain) <= longest else f"{plain[: longest - 3]}..."


def in_words(error: BaseException, longest: int = 400) -> str:
    """Return an exception in one line: its kind, and its text where it has one."""
    try:
        text = one_line(error, longest)
    except Exception:  # of a user's own __str__
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the memory of this machine or of its GPU did not suffice."""
    # torch tells of the host's memory by a bare RuntimeError, of the GPU's by a subclass of it
    words = ("out of memory", "not enough memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(text in in_words(error, 100_000) for text in words)
    )
