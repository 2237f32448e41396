"""The keys of configuration files: a reference for readers, a schema for editors."""

import yaml

from bat.config import reference
from bat.io.files import replacing
from bat.io.journal import Journal
from bat.io.outputs import Markdown, Yaml

_HEAD = """\
# Keys of a configuration

Written by `bat keys --out docs/config.md` from the records in `bat/config/`.
[config/README.md](../config/README.md) tells how files extend one another.
A number may be a fraction, as in `eps: 8/255`. A name in brackets says which kind of record has the key.

"""


def keys(journal: Journal, *, out: Markdown | None = None) -> None:
    """Print all keys of configuration files with their values, ranges, defaults and meanings.

    out: a file to write them to instead

    Example:
        bat keys --out docs/config.md
    """
    text = _HEAD + reference.tables()
    if out is None:
        print(text, end="")  # noqa: T201
        return
    with replacing(out) as temporary:
        temporary.write_bytes(text.encode())


def schema(journal: Journal, *, out: Yaml) -> None:
    """Write the JSON schema of configuration files as YAML, for editors that know the YAML language server.

    out: the schema

    Example:
        bat schema --out config/schema.yaml
    """
    text = yaml.safe_dump(reference.editor_schema(), sort_keys=False, width=110)
    with replacing(out) as temporary:
        temporary.write_bytes(text.encode())
