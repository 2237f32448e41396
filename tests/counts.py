"""Counts that say how easily one finds one's way, of two revisions side by side.

python tests/counts.py 9d35cd9 HEAD
"""

import ast
import io
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from pathlib import Path


def doubled_names(root: Path) -> dict[str, list[str]]:
    """Return the public names that stand at the top of two modules of the package, with the modules."""
    places = defaultdict(list)
    for path in sorted((root / "bat").rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else [node]
            for target in targets:
                name = getattr(target, "name", None) or getattr(target, "id", "_")
                if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Assign) and not name.startswith("_"):
                    places[name].append(str(path.relative_to(root)))
    return {name: where for name, where in places.items() if len(where) > 1}


def lines(root: Path, *patterns: str) -> int:
    return sum(len(path.read_text().splitlines()) for pattern in patterns for path in root.glob(pattern))


def counts(root: Path) -> dict[str, int]:
    return {
        "entries of bat/": len([path for path in (root / "bat").iterdir() if path.name != "__pycache__"]),
        "Python lines of bat/": lines(root, "bat/**/*.py"),
        "lines of rules": lines(root, "workflow/Snakefile", "workflow/**/*.smk"),
        "lines of YAML": lines(root, "config/**/*.yaml", "workflow/**/*.yaml"),
        "Python lines of tests/": lines(root, "tests/**/*.py"),
        "names in two modules": len(doubled_names(root)),
    }


def counts_at(revision: str) -> dict[str, int]:
    """Return the counts of a revision of the repository in the working directory."""
    packed = subprocess.run(["git", "archive", revision], capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
        return counts(Path(folder))


if __name__ == "__main__":
    before, after = sys.argv[1:]
    old, new = counts_at(before), counts_at(after)
    print(f"{'':<24}{before:>12.12}{after:>12.12}")
    for what in old:
        print(f"{what:<24}{old[what]:>12}{new[what]:>12}")
