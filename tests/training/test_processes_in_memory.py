"""Real processes whose rows in memory differ are refused where they meet."""

import pytest

from tests.training.several import Several
from tests.training.watching import kept_steps

pytestmark = pytest.mark.slow


def test_processes_with_other_rows_are_refused(world, tmp_path_factory, tmp_path):
    rows = "[{'text': word, 'label': word} for word in ('good', 'bad', 'kind', 'dark')]"
    configs = [
        world.config_file(
            tmp_path / f"{process}.py",
            tmp_path / "run",
            task=f"jp.Classification(jp.InMemory(train={rows}{order}, validation={rows}), max_length=32)",
        )
        for process, order in enumerate(("", "[::-1]"))
    ]
    several = Several(tmp_path_factory.mktemp("cache"))
    try:
        codes, said, _ = several(configs, 2, tmp_path)
    finally:
        several.close()
    assert codes[0] == 2 and codes[1] not in (0, None)
    assert "process 1 came to the set-up of" in said[0] and "with another config" in said[0]
    assert not kept_steps(tmp_path / "run")
