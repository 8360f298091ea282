"""Processes for the items: a server that has torch imported forks one for each, watched by another.

The watcher passes on what the item's process reports, holds the time limit, and ends whatever the
solution has started, also what has left its group or its session. Where a system cannot fork, each
item's process starts anew. Standard library only, until an item runs.
"""

import contextlib
import ctypes
import importlib
import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PRELOADED = ("torch", "torchvision", "captum.attr", "checker.process")
# On every machine alike: on the CPU. What forks has looked for GPUs, which then cannot be used.
ALIKE = {"CUDA_VISIBLE_DEVICES": ""}
STARTING = 60  # seconds for the server to answer: torch's import, on a busy machine
GRACE = 5  # seconds beyond the limit, for the watcher to end everything
MOST_BYTES = 1 << 26  # of a report
LENGTH = 8  # bytes before a report
# Of Linux's prctl: die with the parent; those whose parent has ended become one's own children.
DIE_WITH_PARENT, SUBREAPER = 1, 36


class ServerError(Exception):
    """Why an item's process cannot be started, on one line."""


class Server:
    """Starts items' processes; itself started when needed, and again if a solution ends it."""

    def __init__(self):
        """Start nothing yet."""
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._socket: Any = None
        self._watchers: set[int] = set()
        self._closed = False
        # In the environment of all that the server starts, whoever its parent is by then.
        self._mark = f"SOLUTION_OF_{secrets.token_hex(8)}"

    def run(self, arguments: Sequence, patience: float) -> tuple[dict, bytes]:
        """Run `checker.process.run` with these arguments.

        Returns:
            How the process came out: "late", whether it was not done in time, and "status", its
            exit status if it has ended by itself; and its report, empty if there is none.

        Raises:
            ServerError: solutions end the server again and again, or it is closed.
        """
        if not hasattr(os, "fork"):
            return _run_alone(arguments, patience)
        request = json.dumps([arguments, patience]).encode()
        reader, writer = os.pipe()
        try:
            try:
                watcher = self._ask(request, writer)
            finally:
                os.close(writer)
            answer = self._answer(reader, watcher, patience + GRACE)
        finally:
            os.close(reader)
        head, _, report = answer.partition(b"\n")
        return json.loads(head), report

    def open(self) -> "Server":
        """Allow items to be started, also after `close`; return this server."""
        self._closed = False
        return self

    def close(self) -> None:
        """End the server, the items that run, and what solutions have left; start nothing more."""
        self._closed = True
        if process := self._process:  # at once, also while it is waited for
            process.kill()
        with self._lock:
            self._end_server()
        for watcher in list(self._watchers):
            _signal(watcher, signal.SIGTERM, signal.SIGCONT)
        for _ in range(100):  # what is being started at this moment is found the next time
            if not (left := _marked(self._mark)):
                break
            for pid in left:
                _signal(pid, signal.SIGKILL)
            time.sleep(0.01)

    def _ask(self, request: bytes, writer: int) -> int:
        """Have an item started that reports to `writer`; return its watcher."""
        with self._lock:
            for _ in range(0 if self._closed else 3):
                with contextlib.suppress(OSError):  # a solution has stopped or ended the server
                    if self._socket is None:
                        self._begin_server()
                    _signal(self._process.pid, signal.SIGCONT)  # a solution may have stopped it
                    socket.send_fds(self._socket, [request], [writer])
                    if watcher := self._socket.recv(20):
                        self._watchers.add(int(watcher))
                        return int(watcher)
                self._end_server()
        raise ServerError("the process that starts the others has been ended again and again")

    def _answer(self, reader: int, watcher: int, patience: float) -> bytes:
        """Read what a watcher writes, until it ends or time is up: then it has been stopped."""
        answer, deadline, stopped = b"", time.monotonic() + patience, False
        while len(answer) < 2 * MOST_BYTES:
            if select.select([reader], [], [], max(0, deadline - time.monotonic()))[0]:
                if not (block := os.read(reader, 1 << 16)):
                    break
                answer += block
            elif stopped:
                _signal(watcher, signal.SIGKILL)
                break
            else:
                _signal(watcher, signal.SIGTERM, signal.SIGCONT)
                deadline, stopped = time.monotonic() + GRACE, True
        self._watchers.discard(watcher)
        return answer or b'{"late": %s, "status": null}\n' % (b"true" if stopped else b"false")

    def _begin_server(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(STARTING)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **ALIKE, self._mark: "1"},
                start_new_session=True,  # whoever interrupts the check has it ended in order
            )

    def _end_server(self) -> None:
        if self._process:
            self._socket.close()
            self._process.kill()
            self._process.wait()
        self._process = self._socket = None


def _run_alone(arguments: Sequence, patience: float) -> tuple[dict, bytes]:
    """Run an item in a process that imports torch itself, as on Windows."""
    command = [sys.executable, __file__, "alone", json.dumps(arguments)]
    kwargs: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    kwargs["env"] = {**os.environ, **ALIKE}
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=patience, **kwargs)
    except subprocess.TimeoutExpired:
        return {"late": True, "status": None}, b""
    return {"late": False, "status": done.returncode}, done.stdout[LENGTH:]


def _signal(pid: int, *numbers: int) -> None:
    with contextlib.suppress(OSError):  # it has ended
        for number in numbers:
            os.kill(pid, number)


def _marked(mark: str) -> list[int]:
    """Return the processes with a variable in their environment; none where there is no /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # another user's, or it has ended
            if f"{mark}=1".encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


# --- In the server's process ---


def serve(number: int) -> None:
    """Fork a watcher for each request that comes, until whoever asks has gone."""
    for name in PRELOADED:
        importlib.import_module(name)
    sys.modules["PIL.Image"].init()  # the formats' modules, too
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the watchers
    with socket.socket(fileno=number) as connection:
        while True:
            request, writers, *_ = socket.recv_fds(connection, 1 << 16, 1)
            if not request:
                return
            if (watcher := os.fork()) == 0:
                connection.close()
                try:
                    arguments, patience = json.loads(request)
                    watch(arguments, patience, writers[0])
                finally:
                    os._exit(0)
            os.close(writers[0])
            connection.sendall(str(watcher).encode())


def watch(arguments: Sequence, patience: float, result: int) -> None:
    """Run an item in a child, pass on its report, and end it with all that it has started."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # unwinds
    _control(SUBREAPER, 1)
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _control(DIE_WITH_PARENT, signal.SIGKILL)
        os.close(reader)
        os.close(result)
        try:
            importlib.import_module("checker.process").run(*arguments, writer)
        finally:
            os._exit(1)
    os.close(writer)
    try:
        end, report = _report(reader, child, patience, result)
    finally:
        _end_children(child)
    with open(result, "wb") as file:
        file.write(json.dumps(end).encode() + b"\n" + report)


def _control(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # AttributeError: another system than Linux
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _report(reader: int, child: int, patience: float, result: int) -> tuple[dict, bytes]:
    """Read a child's report until it is whole, the child has ended, or time is up."""
    poller, deadline = select.poll(), time.monotonic() + patience
    poller.register(result, 0)  # tells only that its reader has gone
    poller.register(reader, select.POLLIN)
    os.set_blocking(reader, False)
    report, status = b"", None
    while time.monotonic() < deadline and len(report) < MOST_BYTES and status is None:
        if result in dict(poller.poll(50)):
            sys.exit()
        pid, ended = os.waitpid(child, os.WNOHANG)  # before the last look for what it has written
        with contextlib.suppress(BlockingIOError):
            while block := os.read(reader, 1 << 16):
                report += block
            with contextlib.suppress(KeyError):
                poller.unregister(reader)  # closed
        if len(report) >= LENGTH and len(report) == LENGTH + int.from_bytes(report[:LENGTH], "big"):
            return {"late": False, "status": 0}, report[LENGTH:]
        status = os.waitstatus_to_exitcode(ended) if pid else None
    return {"late": status is None and len(report) < MOST_BYTES, "status": status}, b""


def _end_children(child: int) -> None:
    """Kill a child with its group, and whatever has become a child since, until none is left."""
    deadline = time.monotonic() + GRACE
    with contextlib.suppress(ChildProcessError):  # there are none any more
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                os.killpg(child, signal.SIGKILL)
            for pid in _children():
                _signal(pid, signal.SIGKILL)
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
            time.sleep(0.005)


def _children() -> list[int]:
    """Return this process's children; none where there is no /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(path.parent.name))
    return found


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    if sys.argv[1] == "alone":
        importlib.import_module("checker.process").run(*json.loads(sys.argv[2]), os.dup(1))
    else:
        serve(int(sys.argv[1]))
