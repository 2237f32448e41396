"""The schema of configuration files, for editors."""

import yaml

from bat.config import reading
from bat.io.files import replacing
from bat.io.journal import Journal
from bat.io.outputs import Yaml


def schema(journal: Journal, *, out: Yaml) -> None:
    """Write the JSON schema of configuration files as YAML.

    out: the schema
    """
    text = yaml.safe_dump(reading.json_schema(), sort_keys=False, allow_unicode=True, width=110)
    with replacing(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
