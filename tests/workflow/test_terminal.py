"""What a run tells on the terminal: a line per job, and all that a failed job needs."""

import re

from experiments import SMOKE, new_experiment, planned, snakemake


def test_a_run_tells_each_job_in_one_line(finished):
    lines = (finished / "done").read_text().splitlines()
    jobs = [line for line in lines if re.fullmatch(r" ?\d+ of 26: \w+( \w+=\w+)*, \d+:\d\d:\d\d", line)]
    assert [int(line.split()[0]) for line in jobs] == list(range(1, 27))
    assert " train method=bat seed=1, " in "\n".join(jobs)
    # the head has a row per rule
    assert len(lines) < 26 + 26 + 15
    (log,) = (finished / ".snakemake" / "log").iterdir()
    assert log.read_text().count("    reason: Missing output files: ") >= 24


def test_a_job_that_fails_tells_its_rule_its_outputs_and_its_error(tmp_path):
    new_experiment(tmp_path)
    shard = f"{SMOKE}/subsets/shard-001.parquet"
    data = tmp_path / SMOKE / "data" / "data.safetensors"
    data.parent.mkdir(parents=True)
    (data.parent / "files.parquet").touch()
    data.write_bytes(b"no data")
    assert planned(tmp_path, shard, "--allowed-rules", "subsets") == {"subsets": 1}
    done = snakemake(tmp_path, shard, "--allowed-rules", "subsets")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    (start,) = (place for place, line in enumerate(lines) if line == "Failed: subsets shard=001")
    assert lines[start + 1 : start + 3] == [f"    output: {shard}", f"    log: {SMOKE}/logs/subsets/shard-001.log"]
    assert re.fullmatch(rf"    \d.* subsets: {SMOKE}/data/data.safetensors: .*", lines[start + 3])
    assert "CalledProcessError" not in done.stderr
    assert len(lines) < 25


def test_a_dry_run_and_one_that_prints_commands_tell_of_each_job_why_it_runs(tmp_path):
    new_experiment(tmp_path)
    for asked in (["--dry-run"], ["--printshellcmds"]):
        done = snakemake(tmp_path, "--until", "data", *asked)
        assert done.returncode == 0, done.stderr
        assert "reason: Missing output files" in done.stdout + done.stderr
