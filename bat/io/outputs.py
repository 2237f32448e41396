"""What a stage's signature calls the files that it writes, by format: paths, checked before work starts."""

import os
import tempfile
from pathlib import Path

from bat.errors import BatError

Parquet = Path
Safetensors = Path
Csv = Path
Json = Path
Markdown = Path
Latex = Path
Html = Path
Picture = Path
Yaml = Path

ENDINGS = {
    "Parquet": (".parquet",),
    "Safetensors": (".safetensors",),
    "Csv": (".csv",),
    "Json": (".json",),
    "Markdown": (".md",),
    "Latex": (".tex",),
    "Html": (".html",),
    "Picture": (".pdf", ".svg", ".png"),
    "Yaml": (".yaml", ".yml"),
}
"""The endings that a file of each format may have."""


def check_text(flag: str, path: Path, name: str) -> None:
    """Refuse a name that the libraries of Parquet and safetensors cannot be told: as of bytes that are not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise BatError(
            f"--{flag} {path}: the name of the file or of its folder is no text in UTF-8: rename it, or set a locale "
            "of UTF-8, as LC_ALL=C.UTF-8"
        ) from error


def check_output(flag: str, path: Path, endings: tuple[str, ...] | None = None) -> None:
    """Check that a file of one of these formats can be written; None for a log, which has any.

    Raises:
        BatError: it is a folder, has the ending of another format or a name that is no text, or its folder cannot be
            written.
    """
    try:
        if path.is_dir():
            raise BatError(f"--{flag} {path}: is a folder: give the name of a file")
        if endings:
            check_text(flag, path, str(path.absolute()))
        if endings and path.suffix.lower() not in endings:
            raise BatError(f"--{flag} {path}: give a name that ends in {' or '.join(endings)}, as its format is")
        folder = path.absolute().parent
        # as long as the names of what is kept beside a file while it is written
        path.with_name(f".{path.name}.parts.{os.getpid():08d}.tmp").exists()
        while not folder.exists():
            folder = folder.parent
        # not os.access, which tells root that all can be written
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        hint = "choose another folder or name" if endings else "choose another log"
        raise BatError(f"--{flag} {path}: cannot be written ({error.strerror}): {hint}") from error
