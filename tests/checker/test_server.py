"""The items' processes: what a solution has started is ended with it, or with the check."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import within
from solutions import RIGHT, WarmServer, put

from checker import server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks into /proc"),
]

DAEMON = """
import os, subprocess, time
from pathlib import Path

subprocess.Popen(["sleep", "1000"], start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(1000)
    os._exit(0)
"""


SERVER = """
import os
from pathlib import Path

stat = Path(f"/proc/{os.getppid()}/stat").read_text()
server = int(stat.rpartition(")")[2].split()[1])
"""
DONE = {"late": False, "status": 0, "reported": True}


@pytest.fixture
def run(solution, request):
    """Run the content loss with a body, in a server of its own; the server, and what was found."""
    one = getattr(request, "param", server.Server)()

    def started(body: str) -> tuple[server.Server, dict]:
        put(solution, "content_loss", body)
        arguments = ("content_loss", "assignment", str(solution), str(solution), 30, {})
        end, report = within(150, one.run, arguments, 30)
        return one, end | {"reported": bool(report)}

    yield started
    one.close()


def soon(condition: Callable[[], bool]) -> bool:
    """Whether a condition holds within a minute: processes need a moment to start and to end."""
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_what_outlives_the_watcher_is_ended_with_the_server(run):
    one, end = run(f"{DAEMON}\nos.kill(os.getppid(), 9)\ntime.sleep(1000)")
    assert end == {"late": False, "status": None, "reported": False}
    assert soon(lambda: len(server._marked(one._mark)) >= 3)
    one.close()
    assert server._marked(one._mark) == []
    with pytest.raises(server.ServerError):
        one.run((), 1)


@pytest.mark.parametrize("run", [WarmServer], indirect=True)
def test_a_server_that_a_solution_stops_or_ends_costs_no_other_item(run):
    for number in (signal.SIGSTOP, signal.SIGKILL):
        one, end = run(f"{SERVER}os.kill(server, {number:d})\n{RIGHT['content_loss']}")
        assert end == DONE
        before = one._process.pid
        assert run(RIGHT["content_loss"])[1] == DONE
        assert (one._process.pid == before) == (number == signal.SIGSTOP)


def test_a_server_that_is_stopped_again_and_again_is_replaced(run):
    escape = "if os.fork() == 0:\n    while True:\n        os.kill(server, 19)"
    one, _ = run(f"{SERVER}{escape}\nos.kill(os.getppid(), 9)\n{RIGHT['content_loss']}")
    before = one._process.pid
    assert one._socket.gettimeout() == server.STARTING
    one._socket.settimeout(2)
    assert run(RIGHT["content_loss"])[1] == DONE
    assert one._process.pid != before


def test_what_an_item_has_started_ends_with_it_and_items_with_whoever_asked(run, solution):
    """Also what has left its group and its session."""
    one, end = run(f"{DAEMON}\n{RIGHT['content_loss']}")
    assert end == DONE
    assert soon(lambda: server._marked(one._mark) == [one._process.pid])
    _, end = run("import os, time\nos.kill(os.getppid(), 9)\ntime.sleep(1000)")  # its watcher
    assert end == {"late": False, "status": None, "reported": False}
    assert soon(lambda: server._marked(one._mark) == [one._process.pid])
    put(solution, "content_loss", "import time\ntime.sleep(1000)")
    reader, writer = os.pipe()
    arguments = ["content_loss", "assignment", str(solution), str(solution), 600, {}]
    one._ask(json.dumps([arguments, 600]).encode(), writer)  # far beyond what is waited below
    assert len(server._marked(one._mark)) >= 2
    for descriptor in (reader, writer):
        os.close(descriptor)
    one._socket.close()
    one._process.wait(60)
    assert soon(lambda: not server._marked(one._mark))
