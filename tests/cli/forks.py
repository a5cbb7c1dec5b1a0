"""Processes that start fast: forks of a server that has imported the program and torch.

`write_client` writes a script that takes the place of `python`, or of `python -m dinac_cli`. It
hands its arguments, environment, working directory, blocked signals, standard streams and other
inherited descriptors to the server, passes SIGINT and SIGTERM on, and ends as the fork does. If it
is killed, so is the fork. What a fork starts with `sys.executable` is a fork, too.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

_ROOT = Path(__file__).parents[2]
_UNUSED = ("bench", "triton", "diffusers", "__main__")  # some complain at their end
_MOST_DESCRIPTORS = 64

# Runs without `site`, in 15 ms.
_CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
def forward(number, frame):
    if fork:
        os.kill(fork, number)
    else:
        early.append(number)
def is_inherited(descriptor):
    try:
        return os.get_inheritable(descriptor)
    except OSError:  # it was open during the listing only
        return False
fork, early = 0, []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, forward)
blocked = [*map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))]
inherited = [*filter(is_inherited, map(int, os.listdir("/dev/fd")))]
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
request = [{program!r}, sys.argv[1:], os.getcwd(), dict(os.environ), blocked, inherited]
socket.send_fds(server, [json.dumps(request).encode() + b"\\n"], inherited)
for descriptor in inherited:
    os.close(descriptor)
answers = server.makefile()
fork = int(answers.readline())
for number in early:
    os.kill(fork, number)
code = int(answers.readline())
if code < 0:
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


class ForkServer:
    """The server, from its start to `close`; `folder` holds its socket.

    Raises RuntimeError if the server cannot import the program.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self._address = str(folder / "server")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self._address)
            listener.listen(16)
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(listener.fileno())],
                stdin=subprocess.PIPE,  # closed when the tests end, however they do
                stdout=subprocess.PIPE,
                cwd=_ROOT,
                env=environment,
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise RuntimeError("the fork server cannot import the program")
        self.dinac, self.python = folder / "dinac", folder / "python"
        for client in (self.dinac, self.python):
            self.write_client(client, client.name)

    def write_client(self, path: Path, program: str) -> None:
        """Writes the script at `path` that runs `program`, "dinac" or "python"."""
        path.write_text(
            _CLIENT.format(python=sys.executable, address=self._address, program=program)
        )
        path.chmod(0o755)

    def close(self) -> None:
        """Kills the server and all forks that are left."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


def main() -> None:
    """Serves requests; a fork runs its command and ends as the interpreter does, but at once.

    To take torch down would last another 0.25 s.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    listener = socket.socket(fileno=int(sys.argv[1]))
    sys.executable = str(Path(listener.getsockname()).with_name("python"))
    _import_everything()
    print("ready", flush=True)
    program, arguments = _accept(listener)
    code = _run_dinac(arguments) if program == "dinac" else _run_python(arguments)
    threading._shutdown()  # type: ignore[attr-defined]
    sys.stdout.flush()
    os._exit(code)


def _import_everything() -> None:
    import dinac_cli

    for module in pkgutil.walk_packages(dinac_cli.__path__, "dinac_cli."):
        if not any(name in module.name for name in _UNUSED):
            importlib.import_module(module.name)
    from PIL import Image

    Image.init()
    gc.freeze()  # else each fork copies what its garbage collection touches


def _accept(listener: socket.socket) -> tuple[str, list[str]]:
    """Answers clients until the tests end; returns in each fork, with program and arguments."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # reaps the forks that answer the clients
    while True:
        if 0 in select.select([listener.fileno(), 0], [], [])[0]:
            os.killpg(0, signal.SIGKILL)
        client, _ = listener.accept()
        if os.fork():
            client.close()
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        content, lent, *_ = socket.recv_fds(client, 1 << 16, _MOST_DESCRIPTORS)
        while not content.endswith(b"\n") and (more := client.recv(1 << 16)):
            content += more
        if process := os.fork():
            _answer(client, process, lent)
        client.close()
        listener.close()
        program, arguments, folder, environment, blocked, descriptors = json.loads(content)
        _place(lent, descriptors)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
        signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        return program, arguments


def _answer(client: socket.socket, process: int, lent: Sequence[int]) -> NoReturn:
    """Tells a client about its fork and how that ends. If the client is killed, kills the fork."""
    for descriptor in (0, 1, 2, *lent):
        os.close(descriptor)
    client.sendall(b"%d\n" % process)
    threading.Thread(target=_kill_with, args=(client, process), daemon=True).start()
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    client.sendall(b"%d\n" % code)
    os._exit(0)


def _kill_with(client: socket.socket, process: int) -> None:
    with suppress(OSError):
        client.recv(1)
        os.kill(process, signal.SIGKILL)


def _place(lent: Sequence[int], numbers: Sequence[int]) -> None:
    """Gives the descriptors of a client the numbers that they have there."""
    import fcntl

    copies = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, max(numbers) + 1) for descriptor in lent]
    for descriptor in lent:
        os.close(descriptor)
    for copy, number in zip(copies, numbers, strict=True):
        os.dup2(copy, number)
        os.close(copy)


def _run_dinac(arguments: list[str]) -> int:
    from dinac_cli.cli import main as run_program

    sys.argv = ["dinac", *arguments]
    return _find_code(run_program)


def _find_code(work: Callable[[], object]) -> int:
    """The exit code of `work`; lets exceptions pass."""
    try:
        work()
    except SystemExit as exc:
        if isinstance(exc.code, str):  # a message, which the interpreter prints
            raise
        return exc.code or 0
    return 0


def _run_python(arguments: list[str]) -> int:
    """Does what `python -W FILTER … -c CODE|-m MODULE …` does."""
    while arguments[0] == "-W":
        warnings.simplefilter(arguments[1])  # type: ignore[arg-type]
        arguments = arguments[2:]
    kind, target, *rest = arguments
    sys.argv = [kind, *rest]
    _prepare_path()
    if kind == "-c":
        code = compile(target, "<string>", "exec")
        return _find_code(lambda: exec(code, {"__name__": "__main__"}))
    sys.modules.pop(target, None)
    return _find_code(lambda: runpy.run_module(target, run_name="__main__", alter_sys=True))


def _prepare_path() -> None:
    """Does what Python does at its start with its environment."""
    first = [] if "PYTHONSAFEPATH" in os.environ else [os.getcwd()]
    given = [*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.path[:0] = first + given
    if given:
        sys.modules.pop("sitecustomize", None)
        with suppress(ModuleNotFoundError):
            importlib.import_module("sitecustomize")


if __name__ == "__main__":
    main()
