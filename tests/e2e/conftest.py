"""The small job, run to its end once for all tests."""

from __future__ import annotations

import pytest

from tests.e2e.runs import JOB, Run, ran


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The job, run to its end without any disturbance."""
    return ran(JOB, tmp_path_factory.mktemp("job"))
