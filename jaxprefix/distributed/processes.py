"""Several processes as one run: how they find one another, meet, stop together, and end when one of them is gone.

JAX's coordination service, which lives in process 0, counts heartbeats: it ends all processes when one is missing, and
they end by themselves when it is. So whatever goes wrong in one process, that process only has to end.
"""

import contextlib
import itertools
import logging
import os
import re
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxprefix.distributed import stderr_relay
from jaxprefix.distributed.launch import Launch
from jaxprefix.errors import RunFailed, UserError, escaped
from jaxprefix.signals import RESUMED

log = logging.getLogger("jaxprefix")

START_SECONDS = 300  # for all processes to find the coordinator
BARRIER_SECONDS = 1800  # for all to come to a meeting; one may have the tokenised data in its cache, another not
HEARTBEAT_SECONDS = 30  # without a sign of life, and a process is gone
LINGER_SECONDS = 3  # process 0 ends after the others when all end for the same reason


@contextlib.contextmanager
def distributed_session(launch: Launch) -> Iterator[None]:
    """What is inside runs in all processes of a launch; where there are several, it ends this one on an error.

    Python's usual end would first wait for the other processes, which wait for this one.
    """
    start_processes(launch)
    if not jax.distributed.is_initialized():
        yield
        return
    try:
        yield
        barrier("the end")
        jax.distributed.shutdown()
    except BaseException as error:
        _end(error)


def start_processes(launch: Launch = Launch()) -> None:  # noqa: B008  (immutable)
    """Joins this process to the others; before anything asks JAX for a device. One process alone stays as it is.

    Raises:
      UserError: the launch is incomplete, its port is taken, the coordinator cannot be reached, or JAX runs already.
    """
    found = None if launch.mode == "off" else _found(launch)
    if found is None or jax.distributed.is_initialized():
        return
    coordinator, processes, process, devices = found
    if processes == 1:
        return
    if process == 0:
        _check_port(coordinator)
    else:
        _await_port(coordinator)
    _attach_scribe(coordinator, processes)
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM from us
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            local_device_ids=devices,
            cluster_detection_method="deactivate",
            initialization_timeout=START_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except RuntimeError as error:
        raise UserError(
            f"process {process} could not join the run at {coordinator} ({str(error).splitlines()[0]}); start the "
            "processes before anything else uses JAX, and check the address."
        ) from error
    if process:
        log.setLevel(logging.WARNING)
    for handler in logging.getLogger().handlers if process else ():
        handler.setFormatter(logging.Formatter(f"[process {process}] %(message)s"))
    log.info("process %d of %d, coordinator %s", process, processes, coordinator)


def _found(launch: Launch) -> tuple[str, int, int, Any] | None:
    """Coordinator, number of processes, number of this one, and its devices where the cluster says which."""
    values = {
        "--coordinator (JAX_COORDINATOR_ADDRESS)": launch.coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS"),
        "--processes (JAX_NUM_PROCESSES)": _number(launch.processes, "JAX_NUM_PROCESSES"),
        "--process (JAX_PROCESS_ID)": _number(launch.process, "JAX_PROCESS_ID"),
    }
    missing = [name for name, value in values.items() if value is None]
    if len(missing) == 3:
        found = _cluster()
        if found is None and launch.mode == "on":
            raise UserError(
                "--distributed on, but no cluster was found; give --coordinator HOST:PORT, --processes N and --process "
                "I to each process, or leave it at auto."
            )
        return found
    if missing:
        raise UserError(f"{' and '.join(missing)} must be given as well; each process needs all three.")
    coordinator, processes, process = values.values()
    if not re.fullmatch(r".+:\d+", coordinator):
        raise UserError(f"the coordinator {coordinator!r} is no HOST:PORT; name process 0's, such as 10.0.0.1:8476.")
    if not 0 <= process < processes:
        raise UserError(f"process {process} of {processes} cannot be; number the processes from 0 to {processes - 1}.")
    return coordinator, processes, process, None


def _number(given: int | None, variable: str) -> int | None:
    text = os.environ.get(variable)
    if given is not None or text is None:
        return given
    try:
        return int(text)
    except ValueError as error:
        raise UserError(f"{variable} is {text!r}; it must be a whole number.") from error


def _cluster() -> tuple[str, int, int, Any] | None:
    """What JAX's own detection says, which has no public name that would tell without joining."""
    from jax._src.clusters import ClusterEnv

    try:
        found = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, START_SECONDS)
    except (RuntimeError, OSError, KeyError, ValueError) as error:
        raise UserError(f"the cluster does not tell its processes ({error}); set --distributed off.") from error
    coordinator, processes, process, devices = found
    if coordinator is None:
        return None
    assert processes is not None and process is not None  # a cluster that is detected tells all three
    return coordinator, processes, process, devices


def _check_port(coordinator: str) -> None:
    """Refuses a port that somebody listens at: the service would share it, and each get some of the processes."""
    port = int(coordinator.rpartition(":")[2])
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except OSError as error:
        raise UserError(
            f"port {port} of this machine, which {coordinator} names for the coordinator, cannot be had "
            f"({error.strerror}); end the earlier run that holds it, or name another port to all processes."
        ) from error


def _await_port(coordinator: str) -> None:
    host, _, port = coordinator.rpartition(":")
    until, reason = time.monotonic() + START_SECONDS, ""
    while time.monotonic() < until:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
            return
        except OSError as error:
            reason = error.strerror or str(error)
            time.sleep(0.2)
    raise UserError(
        f"nobody answers at the coordinator's address {coordinator} after {START_SECONDS} s ({reason}); check that "
        "process 0 was started, that the address is that of its machine, and that no firewall is in between."
    )


def _attach_scribe(coordinator: str, processes: int) -> None:
    """Lets standard error run through `stderr_relay.py`."""
    reads, writes = os.pipe()
    command = [sys.executable, "-I", "-S", stderr_relay.__file__, coordinator, str(processes), str(START_SECONDS)]
    _children.append(subprocess.Popen(command, stdin=reads, stdout=subprocess.DEVNULL, start_new_session=True))
    os.close(reads)
    sys.stderr.flush()
    os.dup2(writes, 2)
    os.close(writes)


_children: list[subprocess.Popen] = []


def _end(error: BaseException) -> None:
    """Ends this process with the exit code of the error, having said what it is."""
    code = 1
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif isinstance(error, UserError | RunFailed):
        code = 2 if isinstance(error, UserError) else 1
        print(f"jaxprefix: {escaped(str(error))}", file=sys.stderr)
    elif isinstance(error, KeyboardInterrupt):
        code = 130
        print(f"jaxprefix: stopped before its end; {RESUMED}", file=sys.stderr)
    else:
        if _broke_off(error):  # most likely another process is gone: the service will say which, and end this one
            time.sleep(1.5 * HEARTBEAT_SECONDS)
        traceback.print_exception(error)
    if jax.process_index() == 0:
        time.sleep(LINGER_SECONDS)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _broke_off(error: BaseException) -> bool:
    """Whether a collective failed; gloo, which CPUs use, raises more than one kind of error."""
    if "Gloo" in str(error):
        return True
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error)


_meetings = itertools.count()


def barrier(name: str, word: str = "here") -> None:
    """Returns when all processes have come here, which must make the same calls in the same order.

    Raises:
      RunFailed: some did not come in time; it names them.
      UserError: some came with another word.
    """
    if jax.process_count() == 1:
        return
    from jax._src.distributed import global_state  # the service's barriers and keys have no public name

    client, key = global_state.client, f"jaxprefix/{next(_meetings)} {name}"
    assert client is not None  # of several processes each has one
    client.key_value_set(f"{key}/{jax.process_index()}", word)
    try:
        client.wait_at_barrier(key, 1000 * BARRIER_SECONDS)
    except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" not in str(error):
            raise
        came = _words(client, key)
        missing = ", ".join(str(process) for process in range(jax.process_count()) if process not in came)
        raise RunFailed(
            f"process {missing} did not come to {name} within {BARRIER_SECONDS} s; look into its log, and "
            f"{stderr_relay.AGAIN}."
        ) from error
    words = _words(client, key)
    others = ", ".join(str(process) for process in sorted(words) if words[process] != words[0])
    if others:
        raise UserError(
            f"process {others} came to {name} with another config or version of jaxprefix than process 0; start all of "
            "them by the same command."
        )


def _words(client: Any, key: str) -> dict[int, str]:
    return {int(path.rpartition("/")[2]): word for path, word in client.key_value_dir_get(f"{key}/")}


def one_process_only(what: str) -> None:
    """Refuses what several processes cannot do, joined or about to be."""
    found = None if jax.distributed.is_initialized() else _found(Launch())
    processes = jax.process_count() if found is None else found[1]
    if processes > 1:
        raise UserError(f"{what} runs in one process, and here are {processes}; start it in one.")


class Agreement:
    """Whether any process wants to stop, which all of them hear at the same step.

    One process knows at once. Among several the answer is a reduction over the mesh, begun before one step and read
    before the next, when it is there anyway.
    """

    def __init__(self, mesh: Mesh):
        self._sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._any = jax.jit(lambda flags: flags.any(), out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._asked: Any = False

    def __call__(self, stop: bool) -> bool:
        """Tells the others what this process wants, and whether any wanted it at the call before; all must call it
        before the same step."""
        if jax.process_count() == 1:
            return stop
        here = lambda index: np.array([stop])  # noqa: E731
        flags = jax.make_array_from_callback((self._sharding.mesh.size,), self._sharding, here)
        before, self._asked = self._asked, self._any(flags)
        return bool(before)
