"""The OpenAPI document against the running application: whatever it allows, and much that it forbids, is no 5xx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error

from tests.annotator.web.test_app import client_of

EXAMPLES = 15
"""of each operation, valid and as many invalid"""


def test_no_request_is_a_server_error(tmp_path: Path) -> None:
    document = schemathesis.openapi.from_asgi(
        "/openapi.json", client_of(tmp_path, open=True).app
    )  # under a name of its own
    operations = [found.ok() for found in document.get_all_operations()]
    assert {operation.path for operation in operations} >= {"/v1/preferences", "/v1/chat/completions", "/v1/agreement"}
    for operation in operations:
        modes = [GenerationMode.POSITIVE]
        if list(operation.body) or list(operation.query):
            modes.append(GenerationMode.NEGATIVE)
        for mode in modes:

            @settings(
                max_examples=EXAMPLES,
                deadline=None,
                database=None,
                derandomize=True,  # the same requests each time
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: Any) -> None:
                case.call_and_validate(checks=[not_a_server_error])

            ask()
