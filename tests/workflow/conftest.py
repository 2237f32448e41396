"""One finished smoke experiment for all tests of the workflow, made once however many processes run them."""

import pytest
from experiments import new_experiment, snakemake
from filelock import FileLock


@pytest.fixture(scope="session")
def finished(tmp_path_factory, worker_id):
    """A finished experiment, which no test may change."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "finished"
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            folder.mkdir()
            done = snakemake(new_experiment(folder))
            assert done.returncode == 0, done.stderr
            (folder / "done").write_text(done.stderr)
    return folder
