"""A Python that has imported torch already and forks for each program: what a user starts, without
the seconds that torch's import takes.

    run("saliency_map.py", "--help", cwd=folder)  # also: run("-c", "print(1)")

A program gets arguments, working directory, environment and streams of its own, and ends as in any
other process. What Python reads at its start (options, encodings) and what torch reads when it is
imported cannot be told this way; tests of that start a Python themselves.
"""

import contextlib
import gc
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
import types
from collections.abc import Mapping
from pathlib import Path

PRELOADED = ("torch", "torchvision", "captum.attr")
ADDRESS = "WARM_PYTHON"  # the environment variable that has it; workers inherit it


class Server:
    """One for all workers; it imports torch when the first program is asked for."""

    def __init__(self):
        """Listen; tell all processes that are started from here where."""
        self._folder = tempfile.mkdtemp()
        address = os.environ[ADDRESS] = f"{self._folder}/socket"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        listener.listen()
        with listener:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(listener.fileno())],
                stdin=subprocess.PIPE,  # its end is the server's
                pass_fds=[listener.fileno()],
                start_new_session=True,  # Ctrl-C ends it by the end of its input
            )

    def close(self) -> None:
        """End it, when its programs have ended."""
        self._process.communicate()
        shutil.rmtree(self._folder)


class Program:
    """A program that runs; `pid` is its process."""

    def __init__(
        self,
        *arguments: object,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: socket.socket | None = None,
    ):
        """Start it."""
        self.args = [str(argument) for argument in arguments]
        self._output, self._errors = (
            tempfile.TemporaryFile("w+")  # noqa: SIM115
            for _ in range(2)
        )
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(os.environ[ADDRESS])
        place = str(cwd or Path.cwd())
        request = json.dumps([self.args, place, dict(os.environ if env is None else env)]).encode()
        with Path(os.devnull).open() as nothing:
            files = stdin or nothing, self._output, self._errors
            socket.send_fds(self._socket, [b"\n"], [file.fileno() for file in files])
        self._socket.sendall(request + b"\n")
        self._answers = self._socket.makefile()
        self.pid = int(self._answers.readline())

    def ended(self) -> bool:
        """Return True if it has."""
        return bool(select.select([self._socket], [], [], 0)[0])

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float = 300) -> subprocess.CompletedProcess:
        """Wait for its end; return its status and what it has written."""
        self._socket.settimeout(timeout)
        try:
            status = int(self._answers.readline())
        except TimeoutError:
            self.kill()
            raise
        finally:
            self._answers.close()
            self._socket.close()
        texts = []
        for file in (self._output, self._errors):
            with file:
                file.seek(0)
                texts.append(file.read())
        return subprocess.CompletedProcess(self.args, status, *texts)


def run(
    *arguments: object, cwd: Path | None = None, timeout: float = 300, **environment: str
) -> subprocess.CompletedProcess:
    """Run a program to its end, with these settings beside those of this environment."""
    if not hasattr(os, "fork"):  # Windows
        kwargs: dict = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
        command = [sys.executable, *map(str, arguments)]
        kwargs |= {"timeout": timeout, "env": os.environ | environment}
        return subprocess.run(command, cwd=cwd, **kwargs)
    return Program(*arguments, cwd=cwd, env=os.environ | environment).wait(timeout)


# --- In the server's process ---


def serve(listener: socket.socket) -> tuple[list[str], str, dict[str, str], list[int]]:
    """Fork for each program that is asked for; return, in the fork, what it is to be."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the watchers
    while sys.stdin not in (ready := select.select([listener, sys.stdin], [], [])[0]):
        assert ready
        connection, _ = listener.accept()
        for name in PRELOADED:
            importlib.import_module(name)
        gc.freeze()  # or each fork would copy what it looks through
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _, files, *_ = socket.recv_fds(connection, 1, 3)
            with connection.makefile() as lines:
                request = lines.readline()
            if (program := os.fork()) == 0:
                connection.close()
                return *json.loads(request), files
            for number in files:
                os.close(number)
            with contextlib.suppress(OSError):  # whoever has started it has gone
                connection.sendall(f"{program}\n".encode())
                _, status = os.waitpid(program, 0)
                connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
            os._exit(0)
        connection.close()
    os._exit(0)


def become(arguments: list[str], cwd: str, environment: dict[str, str], files: list[int]) -> None:
    """Run a program in this process, as Python does with these arguments."""
    for stream, number in enumerate(files):
        os.dup2(number, stream)
        os.close(number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    if threads := environment.get("OMP_NUM_THREADS"):
        sys.modules["torch"].set_num_threads(int(threads))
    sys.orig_argv, sys.argv, sys.path[0] = [sys.executable, *arguments], arguments, cwd
    if arguments[0] == "-c":
        _, program, *sys.argv[1:] = arguments
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(program, "<string>", "exec"), main.__dict__)
    elif arguments[0] == "-m":
        _, *sys.argv = arguments
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(arguments[0]).resolve().parent)
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    become(*serve(socket.socket(fileno=int(sys.argv[1]))))
