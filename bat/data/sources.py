"""Where images come from, a module a family. Each opens as one Source."""

from bat.config import Data, ImageFolder, Npz, OwnData, Packaged
from bat.data.record import Samples, Source

__all__ = ["Samples", "Source", "open_source"]


def open_source(data: Data, *, threads: int = 1) -> Source:
    """Open the data set that ``data`` names. Images in files of their own are decoded by so many threads.

    Raises:
        BatError: it is not there, or not as it should be.
    """
    # only here: each family has libraries of its own
    if isinstance(data, Packaged):
        from bat.data import packaged

        return packaged.open_packaged(data)
    if isinstance(data, ImageFolder):
        from bat.data import folders

        return folders.open_folder(data, threads=threads)
    if isinstance(data, Npz):
        from bat.data import arrays

        return arrays.open_arrays(data)
    if isinstance(data, OwnData):
        from bat.data import own

        return own.open_own_data(data)
    if data.name == "tiny_imagenet":
        from bat.data import tiny_imagenet

        return tiny_imagenet.open_tiny_imagenet(data, threads=threads)
    from bat.data import published

    return published.open_published(data)
