"""The smoke experiment on a SLURM cluster of one machine that this script starts, against a local run.

    make test-slurm      # as root on Debian: installs SLURM's packages if they are missing

Runs config/smoke.yaml locally and through workflow/profiles/slurm, cancels one shard and one training job on the way,
lets one evaluation be killed, as on a machine short of memory, and compares all tables byte by byte. Everything it
starts or links is gone when it ends.
"""

import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINKS = Path("/etc/slurm")  # the only place where a job's own steps look
PACKAGES = ["munge", "slurm-client", "slurmctld", "slurmd"]
PORT = 16817
SHORT = "evaluate"  # the rule of which the first job dies by itself
TIME_LIMIT = 600  # seconds for the run on the cluster
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/munge.socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=2,bf_interval=5,sched_min_interval=0
ReturnToService=2
SwitchType=switch/none
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
KillWait=3
MinJobAge=600
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] \\
 CPUs=8 RealMemory=8000 Gres=gpu:2 State=UNKNOWN
PartitionName=short Nodes=n[1-2] Default=YES MaxTime=3-00:00:00 State=UP
"""
GRES_CONF = "NodeName=n[1-2] Name=gpu File={folder}/dev/gpu[0-1]\n"


def main() -> None:
    refuse()
    folder = Path(tempfile.mkdtemp(prefix="bat-slurm-"))
    try:
        say(f"local run in {folder}/local")
        locally(new_experiment(folder / "local"))
        say("starting SLURM: two nodes of this machine, with two pretended GPUs each")
        with cluster(folder / "cluster"):
            say(f"run on the cluster in {folder}/slurm")
            through_slurm(new_experiment(folder / "slurm"))
        compare(folder / "local", folder / "slurm")
        say("passed")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def refuse() -> None:
    """End with one line where this cannot or should not run; install the packages where they are missing."""
    if sys.platform != "linux" or platform.freedesktop_os_release().get("ID") != "debian":
        sys.exit("test-slurm: this is not Debian, from whose packages it starts a SLURM: run it in a Debian container")
    if os.geteuid() != 0:
        sys.exit("test-slurm: starting a SLURM takes root: run it as root in a Debian container")
    taken = [str(LINKS / name) for name in ("slurm.conf", "gres.conf") if os.path.lexists(LINKS / name)]
    if taken:
        sys.exit(f"test-slurm: {taken[0]} is there: this machine has a SLURM, or a killed test left it; remove it")
    if not all(shutil.which(name) for name in ("munged", "slurmctld", "slurmd", "sbatch")):
        say(f"installing {' '.join(PACKAGES)}")
        for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
            done = subprocess.run(["apt-get", "-qq", *command], capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"test-slurm: apt-get {command[0]} failed: {' '.join(done.stderr.split())}")


def new_experiment(folder: Path) -> Path:
    shutil.copytree(ROOT / "config", folder / "config")
    return folder


def snakemake(*options: str) -> list[str]:
    where = ["--snakefile", str(ROOT / "workflow/Snakefile"), "--configfile", "config/smoke.yaml"]
    return [sys.executable, "-m", "snakemake", *where, *options]


def locally(folder: Path) -> None:
    done = subprocess.run(
        snakemake("--cores", "2"), cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    expect(done.returncode == 0, f"the local run failed:\n{done.stderr}")


@contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """Start munge, a controller and two nodes; stop all that they are and left on exit."""
    host = platform.node().split(".")[0]
    for name in ("etc", "run", "log", "munge", "state", "spool", "dev"):
        (folder / name).mkdir(parents=True)
    for path in (folder.parent, folder, *folder.iterdir()):
        path.chmod(0o755)  # munge trusts no other
    for gpu in ("gpu0", "gpu1"):
        (folder / "dev" / gpu).touch()
    key = folder / "etc/munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    conf = folder / "etc/slurm.conf"
    conf.write_text(SLURM_CONF.format(host=host, folder=folder, port=PORT, first=PORT + 1, last=PORT + 2))
    (folder / "etc/gres.conf").write_text(GRES_CONF.format(folder=folder))
    try:
        for name in ("slurm.conf", "gres.conf"):
            (LINKS / name).symlink_to(folder / "etc" / name)
        start(
            *("munged", f"--key-file={key}", f"--socket={folder}/munge/munge.socket"),
            *(f"--pid-file={folder}/run/munged.pid", f"--log-file={folder}/log/munged.log"),
            f"--seed-file={folder}/munge/munged.seed",
        )
        start("slurmctld", "-f", str(conf))
        for node in ("n1", "n2"):
            start("slurmd", "-N", node, "-f", str(conf))
        wait_until(lambda: asked("sinfo", "-h", "-N", "-o", "%T").split() == ["idle", "idle"], 30, "the nodes idle")
        yield
    finally:
        stop(folder)


def start(*command: str) -> None:
    # each daemon detaches from this process; its pid file says which it is
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    expect(done.returncode == 0, f"{command[0]} does not start: {done.stderr}")


def stop(folder: Path) -> None:
    if asked("squeue", "-h", "-o", "%i"):
        asked("scancel", "-u", "root")
        with suppress(SystemExit):
            wait_until(lambda: not asked("squeue", "-h", "-o", "%i"), 20, "the queue empty")
    # nodes first: they tell the controller
    pids = [int(path.read_text()) for path in sorted((folder / "run").glob("*.pid"), reverse=True)]
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.2)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for name in ("slurm.conf", "gres.conf"):
        if (LINKS / name).is_symlink():
            (LINKS / name).unlink()


def through_slurm(folder: Path) -> None:
    """Run the experiment through the profile, small waits apart, and cancel a shard and a training job."""
    faster = ["--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "5"]
    here = ["--jobs", "2", "--slurm-status-command", "squeue", "--default-resources", "slurm_partition=short"]
    output = folder / "snakemake.log"
    dies_once(folder)
    with output.open("w") as log:
        run = subprocess.Popen(
            snakemake("--workflow-profile", str(ROOT / "workflow/profiles/slurm"), *faster, *here),
            cwd=folder,
            env=ENVIRONMENT | {"PATH": f"{folder / 'bin'}{os.pathsep}{ENVIRONMENT['PATH']}"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        for rule in ("subsets", "train"):
            say(f"cancelled job {cancel_one(rule, run)} of rule {rule}")
        run.wait(TIME_LIMIT)
    except subprocess.TimeoutExpired:
        sys.exit(f"test-slurm: not done after {TIME_LIMIT} s:\n{output.read_text()}")
    finally:
        if run.poll() is None:
            run.kill()  # it would wait for its jobs
            run.wait()
    text = output.read_text()
    expect(run.returncode == 0, f"the run on the cluster failed:\n{text}")
    expect((folder / "died").is_dir(), f"no job of {SHORT} died by itself:\n{text}")
    expect(text.count("Trying to restart job") == 3, f"three jobs should have been restarted:\n{text}")
    expect("Submitted array job" in text, f"the shards should have been an array:\n{text}")
    check_requests()


def dies_once(folder: Path) -> None:
    """Put a python before all others that kills itself in the first job of rule SHORT and is the usual one otherwise.

    Snakemake before 9.14.1 tried such a job again inside its own allocation, with the memory it had.
    """
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(
        f"""#!/bin/sh
if [ "$1 $2 $3" = "-m bat {SHORT}" ] && mkdir {folder}/died 2> {os.devnull}; then kill -KILL $$; fi
exec {sys.executable} "$@"
"""
    )
    python.chmod(0o755)


def cancel_one(rule: str, run: "subprocess.Popen[bytes]") -> str:
    """Cancel the first running job of ``rule`` and return its number."""
    found: list[str] = []

    def running() -> bool:
        expect(run.poll() is None, f"the workflow ended before a job of {rule} ran")
        lines = asked("squeue", "-h", "-r", "-t", "R", "-o", "%i %k").splitlines()
        found.extend(line.split()[0] for line in lines if f"rule_{rule}" in line)
        return bool(found)

    wait_until(running, 120, f"a job of {rule} running")
    asked("scancel", found[0])
    return found[0]


def check_requests() -> None:
    """See in SLURM's own books what the jobs asked for, and that the second attempts asked for more."""
    lines = asked("squeue", "-h", "-r", "-t", "all", "-O", "comment:80,minmemory:20,timelimit:20,tres-per-job:20")
    jobs = [line.split() for line in lines.splitlines()]
    for rule, minutes in (("subsets", 240), ("train", 720), (SHORT, 240)):
        mine = [request for comment, *request in jobs if comment.startswith(f"rule_{rule}_")]
        again = [memory for memory, *_ in mine if megabytes(memory) >= 4000]
        expect(len(again) == 1, f"{rule}: one job should have asked for twice the memory, not {mine}")
        times = {limit for _, limit, *_ in mine}
        expect(times == {slurm_time(minutes), slurm_time(2 * minutes)}, f"{rule}: time limits {times}")
        expect(all(request[2:] == ["gres:gpu:1"] for request in mine), f"{rule}: no GPU asked for: {mine}")
        say(f"{rule}: {len(mine)} jobs in SLURM's books, memory {', '.join(memory for memory, *_ in mine)}")
    say(f"{len(jobs)} jobs in SLURM's books; second attempts asked for twice the memory and time")


def compare(local: Path, other: Path) -> None:
    first, second = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("results/**/*.parquet")}
        for folder in (local, other)
    )
    expect(bool(first) and first.keys() == second.keys(), f"other tables: {sorted(first.keys() ^ second.keys())}")
    differing = sorted(str(path) for path in first if first[path] != second[path])
    expect(not differing, f"tables that differ from the local run's: {', '.join(differing)}")
    say(f"{len(first)} tables are the same, byte by byte, as those of the local run")


def megabytes(memory: str) -> int:
    """Return the number in a memory request such as 4000M or 4G."""
    return int(memory[:-1]) * {"M": 1, "G": 1024}[memory[-1]]


def slurm_time(minutes: int) -> str:
    """Return a time limit as SLURM prints it: [days-]hours:minutes:seconds."""
    days, rest = divmod(minutes, 24 * 60)
    return (f"{days}-{rest // 60:02d}" if days else f"{rest // 60}") + f":{rest % 60:02d}:00"


def asked(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def wait_until(true: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        expect(time.monotonic() < deadline, f"waited {seconds} s for {what}")
        time.sleep(0.3)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def expect(true: bool, otherwise: str) -> None:
    if not true:
        sys.exit(f"test-slurm: {otherwise}")


if __name__ == "__main__":
    main()
