"""How processes find one another, and what is said where they cannot; one process suffices."""

import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from jaxprefix.cli import main as cli
from jaxprefix.cli.launch import take_launch
from jaxprefix.distributed import processes, stderr_relay
from jaxprefix.distributed.launch import Launch
from jaxprefix.distributed.processes import Agreement, one_process_only, start_processes
from jaxprefix.distributed.rows import fetch_global, local_rows
from jaxprefix.errors import UserError

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    for name in list(os.environ):
        if name in VARIABLES or name.startswith(("SLURM_", "OMPI_", "KUBERNETES_")):
            monkeypatch.delenv(name)


@pytest.fixture
def port():
    with socket.create_server(("", 0)) as taken:
        yield taken.getsockname()[1]


def test_the_launch_is_taken_out_of_the_arguments():
    args = ["config.py", "--mesh.data", "-1", "--coordinator", "a:1", "--seed=3", "--processes", "2", "--process=1"]
    launch, rest = take_launch(args)
    assert launch == Launch("auto", "a:1", 2, 1)
    assert rest == ["config.py", "--mesh.data", "-1", "--seed=3"]
    assert take_launch(["config.py", "--distributed", "off"]) == (Launch("off"), ["config.py"])
    with pytest.raises(SystemExit):
        take_launch(["config.py", "--distributed", "perhaps"])


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_a_process_alone_stays_as_it_is(mode):
    start_processes(Launch(mode))
    assert not jax.distributed.is_initialized()
    processes.barrier("nobody")  # returns at once
    one_process_only("a test")


def test_variables_name_a_launch(monkeypatch):
    for name, value in zip(VARIABLES, ("a:1", "4", "2"), strict=True):
        monkeypatch.setenv(name, value)
    assert processes._found(Launch()) == ("a:1", 4, 2, None)
    assert processes._found(Launch(process=3)) == ("a:1", 4, 3, None)
    start_processes(Launch("off"))
    with pytest.raises(UserError, match="a comparison runs in one process, and here are 4; start it in one"):
        one_process_only("a comparison")
    monkeypatch.setenv("JAX_PROCESS_ID", "two")
    with pytest.raises(UserError, match="JAX_PROCESS_ID is 'two'; it must be a whole number"):
        processes._found(Launch())


@pytest.mark.parametrize(
    "launch, said",
    [
        (Launch("on"), "no cluster was found; give --coordinator HOST:PORT"),
        (Launch(coordinator="a:1"), r"--processes .* and --process .* must be given as well"),
        (Launch(processes=2, process=0), "--coordinator .* must be given as well"),
        (Launch("auto", "a", 2, 0), "'a' is no HOST:PORT"),
        (Launch("auto", "a:1", 2, 2), "process 2 of 2 cannot be; number the processes from 0 to 1"),
    ],
)
def test_what_cannot_be_a_launch_is_refused(launch, said):
    with pytest.raises(UserError, match=said):
        start_processes(launch)


def test_one_process_of_one_needs_no_coordinator():
    start_processes(Launch("on", "localhost:1", 1, 0))
    assert not jax.distributed.is_initialized()


def test_a_port_in_use_is_refused(port):
    with pytest.raises(UserError, match=rf"port {port} of this machine.*in use.*end the earlier run"):
        start_processes(Launch("on", f"localhost:{port}", 2, 0))


def test_a_coordinator_that_nobody_started_is_named(monkeypatch):
    monkeypatch.setattr(processes, "START_SECONDS", 1)
    with socket.create_server(("localhost", 0)) as gone:
        address = f"localhost:{gone.getsockname()[1]}"
    with pytest.raises(
        UserError, match=rf"nobody answers at the coordinator's address {address} after 1 s \(.*refused"
    ):
        start_processes(Launch("on", address, 2, 1))


def test_the_command_says_so_and_exits_with_2(port, capsys):
    arguments = ["--coordinator", f"localhost:{port}", "--processes", "2", "--process", "0"]
    assert cli.main(["train", "missing.py", *arguments]) == 2
    assert f"port {port} of this machine" in capsys.readouterr().err


def test_rows_and_values_of_a_process_alone_are_all_of_them():
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), ("data", "fsdp", "tp"))
    np.testing.assert_array_equal(local_rows(mesh, 6), np.arange(6))
    assert Agreement(mesh)(True) and not Agreement(mesh)(False)
    np.testing.assert_array_equal(fetch_global({"x": jax.numpy.arange(3)})["x"], np.arange(3))


# The relay of standard error

START = "F1125 10:37:43.5 31343 client.h:80] Terminating process because the JAX distributed service detected fatal "
START += "errors. This most likely indicates that another task died. absl::Status: "
TRACE = "*** Check failure stack trace: ***\n    @     0x7f3d9ab40634  absl::log_internal::LogMessage::SendToLog()\n"
WORDS = {
    "process 2 is gone": "UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):\n2\nThe tasks",
    "processes 1, 3 are gone": "UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):\n1\n3\nT",
    "process 0, the coordinator at a:1, is gone": "UNAVAILABLE: Failed to send RPC to coordination service. Either",
    "did not all find the coordinator at a:1 within 300 s": "DEADLINE_EXCEEDED\n\nRPC: /xla.x/RegisterTask",
    "a number that is taken came to the coordinator at a:1": "ABORTED: 1 unexpectedly tried to connect with a "
    "different incarnation. It has likely restarted.",
}


GLOO = """terminate called after throwing an instance of 'gloo::EnforceNotMet'
  what():  [enforce fail at pair.cc:459] op.preamble.length <= op.nbytes. 32 vs 4. Received data size doesn't match.
"""


def passed_on(lines):
    out = io.StringIO()
    stderr_relay.write(lines, out, "a:1", 4, 300)
    return out.getvalue()


@pytest.mark.parametrize("said", WORDS)
def test_last_words_become_one_sentence(said):
    before = "E1125 10:37:43.5 31343 coordination_service_agent.cc:289] Polled an error from coordination service.\n"
    lines = ["step 3\n", before, *(START + WORDS[said] + "\n" + TRACE).splitlines(keepends=True)]
    found = passed_on(lines).splitlines()
    assert found[0] == "step 3"
    assert found[1].startswith("jaxprefix: ") and said in found[1]
    assert len(found) == 2


def test_a_process_that_gloo_ends_says_so_in_one_sentence():
    (found,) = passed_on(GLOO.splitlines(keepends=True)).splitlines()
    assert found.startswith(
        "jaxprefix: a computation of all processes broke off, most likely because one of them is gone"
    )
    assert "32 vs 4" in found and "start the same command again" in found


def test_what_the_relay_does_not_know_is_passed_on():
    lines = ["step 3\n", "E1125 10:37:43.5 31343 coordination_service.cc:1] something\n", "more\n"]
    assert passed_on(lines) == "".join(lines)
    unknown = [START + "INTERNAL: something new\n", TRACE]
    assert passed_on(unknown) == "".join(unknown)


def test_the_relay_passes_lines_on_as_they_come_and_outlives_a_signal():
    command = [sys.executable, "-I", "-S", stderr_relay.__file__, "a:1", "4", "300"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(child.stderr))
    reader.start()
    child.stdin.write(b"one\n")
    child.stdin.flush()
    deadline = time.monotonic() + 20
    while not lines and time.monotonic() < deadline:
        time.sleep(0.01)
    assert lines == [b"one\n"]
    child.send_signal(signal.SIGTERM)
    child.stdin.write(b"two \xff\n")
    child.stdin.close()
    reader.join(20)
    assert lines[1].startswith(b"two ")
    assert child.wait(20) == 0
