"""The small job, run to its end once for all tests."""

from __future__ import annotations

import pytest

from tests.e2e.runs import JOB, Run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The job, run to its end without any disturbance."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "job.yaml").write_text(JOB)
    run = Run(folder / "runs", folder / "job.yaml")
    ending = run.finish()
    assert ending.code == 0, ending.text
    return run
