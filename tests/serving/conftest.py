from __future__ import annotations

import pytest

from tests.serving.adapters import write_adapters


@pytest.fixture(scope="session")
def adapters(model: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Adapters of some preferences."""
    return write_adapters(model, tmp_path_factory.mktemp("adapters"))
