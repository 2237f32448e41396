"""Python processes that are there at once: forks of one that has imported what `bat` and `snakemake` import.

Without them the tests of the workflow spend most of their time on importing torch once per job. The folder of
``shims()`` comes first in PATH. Its ``python`` sends ``-m bat`` and ``-m snakemake`` to the server, with arguments,
folder, environment and standard files, and ends with the status of the fork; all else it leaves to the true Python.
``Forked`` is for tests that stop a process: it has the fork's own number.
"""

import array
import atexit
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

CLIENT = """\
#!{python} -IS
import array, json, os, socket, sys
arguments = sys.argv[1:]
if arguments[:1] != ["-m"] or arguments[1:2] not in (["bat"], ["snakemake"]):
    os.execv({python!r}, [{python!r}, *arguments])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
call = json.dumps([arguments[1:], os.getcwd(), dict(os.environ)]).encode()
server.sendmsg([len(call).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
server.sendall(call)
answer = server.recv(8, socket.MSG_WAITALL)
sys.exit(int.from_bytes(answer[4:], signed=True) % 256 if answer[4:] else "the process behind this one died")
"""


class Forked:
    """``python -m bat`` as a fork, with what tests of signals need of ``subprocess.Popen``."""

    def __init__(self, *arguments: str) -> None:
        self.returncode: int | None = None
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(str(shims() / "socket"))
        self._stderr, stderr = os.pipe()
        call = json.dumps([["bat", *arguments], str(Path.cwd()), dict(os.environ)]).encode()
        socket.send_fds(self._server, [len(call).to_bytes(8, "big")], [0, 1, stderr])
        os.close(stderr)
        self._server.sendall(call)
        self.pid = int.from_bytes(self._server.recv(4, socket.MSG_WAITALL))

    def poll(self) -> int | None:
        """Return the status if the process has ended."""
        return self.wait() if self.returncode is not None or select.select([self._server], [], [], 0)[0] else None

    def wait(self) -> int:
        """Wait for the end, and return the status."""
        if self.returncode is None:
            self.returncode = int.from_bytes(self._server.recv(4, socket.MSG_WAITALL), signed=True)
            self._server.close()
            with os.fdopen(self._stderr) as said:
                self.said = said.read()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to stop."""
        self.send_signal(signal.SIGTERM)

    def communicate(self) -> tuple[None, str]:
        """Wait for the end; return nothing and what it said on standard error."""
        self.wait()
        return None, self.said


@cache
def shims() -> Path:
    """Start a server, which ends with this process; return the folder of its socket and of its ``python``."""
    folder = Path(tempfile.mkdtemp(prefix="warm"))
    atexit.register(shutil.rmtree, folder)
    address = str(folder / "socket")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, __file__, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    atexit.register(server.communicate)  # closes its standard input, which ends it
    assert server.stdout.readline() == b"listening\n"
    client = folder / "python"
    client.write_text(CLIENT.format(python=sys.executable, address=address))
    client.chmod(0o755)
    return folder


def serve(address: str) -> None:
    """Answer calls until standard input is closed."""
    import gc

    gc.disable()
    # what a dry run and a figure import late
    for module in ("smart_open", "docutils.core", "fontTools.subset", "matplotlib.backends.backend_pdf"):
        importlib.import_module(module)
    import snakemake.cli

    import bat.evaluation.stage
    import bat.planning.stage
    import bat.report.explorer
    import bat.report.figures.differences
    import bat.report.figures.findings
    import bat.report.figures.memorization
    import bat.report.figures.training
    import bat.report.html
    import bat.report.stage
    import bat.scores.importing
    import bat.scores.robust
    import bat.training.stage  # noqa: F401

    snakemake.cli.get_argument_parser()  # imports its plugins
    gc.freeze()
    gc.enable()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen(64)
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while listening in select.select([listening, sys.stdin], [], [])[0]:
        connection = listening.accept()[0]
        if not os.fork():
            listening.close()
            answer(connection)
        connection.close()


def answer(connection: socket.socket) -> None:
    """Fork the process that was called for, wait for it and tell its status; does not return."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, ancillary, *_ = connection.recvmsg(8, socket.CMSG_SPACE(3 * 4))
    files = array.array("i", ancillary[0][2])
    text = b""
    while len(text) < int.from_bytes(head, "big"):
        text += connection.recv(1 << 20)
    (module, *arguments), folder, environment = json.loads(text)
    job = os.fork()
    if job:
        connection.send(job.to_bytes(4))
        status = os.waitpid(job, 0)[1]
        connection.send(os.waitstatus_to_exitcode(status).to_bytes(4, signed=True))
        os._exit(0)
    connection.close()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    sys.path[0] = folder  # as python -m has it
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    status = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(end.code + "\n")
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve(sys.argv[1])
