"""The schema of configuration files, for editors."""

import yaml

from bat import config
from bat.io.files import replacing
from bat.io.journal import Journal


def schema(journal: Journal, *, out: str) -> None:
    """Write the JSON schema of configuration files as YAML."""
    with replacing(out) as temporary:
        temporary.write_text(yaml.safe_dump(config.schema(), sort_keys=False, allow_unicode=True, width=110))
