"""Downloads, with the checksums of torchvision or of the data set."""

import http.client
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torchvision.datasets.utils import download_url

from bat.config import Cached
from bat.data import published, tiny_imagenet
from bat.errors import BatError

_TIMEOUT = 60  # seconds without a byte; the standard library would wait without end


def fetch(data: Cached) -> None:
    """Download a published data set to its cache, unless a whole copy is there: then nothing is asked of the network.

    Raises:
        BatError: the download failed; another try goes on with the whole files.
    """
    try:
        _open(data)
        return
    except BatError:
        pass
    try:
        with _timeout():
            _fetch(data)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise BatError(
            f"{data.cache}: {data.name} cannot be downloaded ({' '.join(str(error).split())}): "
            "try again, or put its files there by hand"
        ) from error
    _open(data)
    published.keep_sums(data)


def _open(data: Cached) -> None:
    if data.name == "tiny_imagenet":
        tiny_imagenet.open_tiny_imagenet(data, threads=1)
    else:
        published.open_published(data)


def _fetch(data: Cached) -> None:
    cache = Path(data.cache).expanduser()
    if data.name == "tiny_imagenet":
        download_url(tiny_imagenet.URL, cache, tiny_imagenet.FILE, tiny_imagenet.MD5)
        return
    # torchvision checks archives, but takes some of the files that a killed run unpacked for whole
    for path in published.extracted(data):
        path.unlink(missing_ok=True)
    for train in (True, False):
        published.part(data, train=train, download=True)


@contextmanager
def _timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
