"""A notebook's stop button: `jp.train` saves, and then KeyboardInterrupt says what it saved."""

import os
import time

import pytest

from tests.training.watching import kept_steps, lines

CELL = """
import importlib.util
spec = importlib.util.spec_from_file_location("config", {config!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
import jaxprefix as jp
jp.train(module.config())
"""


@pytest.mark.slow
def test_the_stop_button_saves_and_then_raises(world, tmp_path):
    manager = pytest.importorskip("jupyter_client").manager
    folder = tmp_path / "run"
    config = world.config_file(tmp_path / "config.py", folder, steps="100000", evaluate_every="100000")
    kernel = manager.KernelManager(kernel_name="python3")
    kernel.start_kernel(env={**os.environ, "JAXPREFIX_CACHE": str(tmp_path / "cache")})
    client = kernel.client()
    try:
        client.start_channels()
        client.wait_for_ready(60)
        asked = client.execute(CELL.format(config=config))
        until = time.monotonic() + 60
        while not (folder / "metrics.jsonl").exists() or not lines(folder):
            assert time.monotonic() < until
            time.sleep(0.05)
        kernel.interrupt_kernel()
        reply = client.get_shell_msg(60)
        while reply["parent_header"].get("msg_id") != asked:
            reply = client.get_shell_msg(60)
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)
    (step,) = kept_steps(folder)
    found = reply["content"]
    assert (found["status"], found["ename"]) == ("error", "KeyboardInterrupt")
    assert found["evalue"] == f"stopped at step {step}; the same command resumes it"
