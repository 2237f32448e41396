"""Python processes that are there at once: forks of one that has imported what `bat` and `snakemake` import.

Without them the tests of the workflow spend most of their time on importing torch once per job. The folder of
``shims()`` comes first in PATH. Its ``python`` sends ``-m bat`` and ``-m snakemake`` to the server, with arguments,
folder, environment and standard files, and ends with the status of the fork; all else it leaves to the true Python.
Tests of signals, and the experiment that other tests copy, take true processes.
"""

import array
import atexit
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
status = server.recv(1)
sys.exit(status[0] if status else "the process behind this one died")
"""


@cache
def shims() -> Path:
    """Start a server, which ends with this process; return the folder of the ``python`` that calls it."""
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
    import snakemake.cli  # noqa: F401

    import bat.evaluation.stage
    import bat.report.stage
    import bat.scores.importing
    import bat.scores.robust
    import bat.training.stage  # noqa: F401

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
        status = os.waitpid(job, 0)[1]
        connection.send(bytes([os.waitstatus_to_exitcode(status) % 256]))
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
