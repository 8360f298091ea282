"""The items' processes: what a solution has started is ended with it, or with the check."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from solutions import put

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


@pytest.fixture
def run(solution):
    """Run the content loss with a body, in a server of its own; the server, and what was found."""
    one = server.Server()

    def started(body: str) -> tuple[server.Server, dict]:
        put(solution, "content_loss", body)
        arguments = ("content_loss", "assignment", str(solution), str(solution), 30, {})
        return one, one.run(arguments, 30)[0]

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
    assert end == {"late": False, "status": None}
    assert soon(lambda: len(server._marked(one._mark)) >= 3)
    one.close()
    assert server._marked(one._mark) == []
    with pytest.raises(server.ServerError):
        one.run((), 1)


def test_what_an_item_has_started_ends_with_it_and_items_with_whoever_asked(run, solution):
    """Also what has left its group and its session."""
    one, end = run(
        f"{DAEMON}\nreturn (content_weight * (content_current - content_original)).sum()"
    )
    assert end == {"late": False, "status": 0}
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
