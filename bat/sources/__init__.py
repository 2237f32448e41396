"""Where images come from, a module a family. Each reader returns one Source."""

from bat.config import Data
from bat.sources.record import Samples, Source

__all__ = ["Samples", "Source", "open_source"]


def open_source(data: Data) -> Source:
    """Open the data set that ``data`` names.

    Raises:
        BatError: it is not there, or not as it should be.
    """
    from bat.sources import packaged

    return {"digits": packaged.digits, "mnist5k": packaged.mnist5k}[data.name]()
