from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rayalign.annotator.store.budget import BudgetError
from rayalign.annotator.web.access import Access, Admission, Refused, digest, known_tokens, refused
from rayalign.config import AccessConfig
from rayalign.errors import InputError


def access_of(config: AccessConfig, environment: dict[str, str], clock: Callable[[], float] = time.monotonic) -> Access:
    return Access(config, known_tokens(config, environment), clock)


class Clock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_without_tokens_anyone_may_ask() -> None:
    access = access_of(AccessConfig(), {})
    assert access.open and access.client(None) == "anyone"


def test_tokens_come_from_environment_and_file_and_only_known_ones_pass(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# who: hash\nbob {digest('bobs-long-token')}\n")
    access = access_of(AccessConfig(token_file=str(file)), {"RAYALIGN_TOKENS": "ann:anns-long-token"})
    assert access.client("Bearer anns-long-token") == "ann"
    assert access.client("bearer bobs-long-token") == "bob"
    for wrong in (
        None,
        "",
        "Bearer",
        "Bearer anns-long-toke",
        "Basic anns-long-token",
        f"Bearer {digest('bobs-long-token')}",
    ):
        with pytest.raises(Refused) as refused:
            access.client(wrong)
        assert refused.value.status == 401 and refused.value.headers["WWW-Authenticate"] == "Bearer"
        assert "long-tok" not in str(refused.value), "no secret in the reply"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ann", "name:token"),
        ("ann:short", "8 characters"),
        ("ann:shört-token", "ASCII"),
        ("a\udcff:short-token", "print"),
    ],
)
def test_malformed_tokens_are_refused_without_showing_them(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        access_of(AccessConfig(), {"RAYALIGN_TOKENS": text})
    assert "short" not in str(error.value) and "shört" not in str(error.value)


def test_a_malformed_token_file_names_its_line(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    for line in ("bob plain-token", digest("t"), "bob " + "é" * 64):
        file.write_text(f"{line}\n")
        with pytest.raises(InputError, match="tokens:1"):
            access_of(AccessConfig(token_file=str(file)), {})
    file.write_bytes(f"b\0b {digest('bobs-long-token')}\n".encode())
    with pytest.raises(InputError, match=r"'b\\x00b' holds characters that do not print"):
        access_of(AccessConfig(token_file=str(file)), {})


def test_a_name_may_have_spaces(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"bob smith {digest('bobs-long-token')}\n")
    assert access_of(AccessConfig(token_file=str(file)), {}).client("Bearer bobs-long-token") == "bob smith"


def test_each_client_has_its_own_rate() -> None:
    clock = Clock()
    access = access_of(
        AccessConfig(requests_per_second=2), {"RAYALIGN_TOKENS": "ann:anns-long-token,bob:bobs-long-token"}, clock
    )
    for _ in range(2):
        access.client("Bearer anns-long-token")
    with pytest.raises(Refused, match="rate limit") as refused:
        access.client("Bearer anns-long-token")
    assert refused.value.status == 429 and refused.value.headers["Retry-After"] == "1"
    access.client("Bearer bobs-long-token")
    clock.now += 0.5
    access.client("Bearer anns-long-token")


def test_room_is_given_back_and_what_does_not_fit_may_come_again() -> None:
    admission = Admission(10)
    with admission.room(8):
        with pytest.raises(Refused) as refused, admission.room(3):
            pass
        assert refused.value.status == 429 and int(refused.value.headers["Retry-After"]) >= 1
        with admission.room(2):
            assert admission.rows == 10
    assert admission.rows == 0
    with pytest.raises(Refused) as refused, admission.room(11):
        pass
    assert refused.value.status == 413


def test_a_full_service_says_when_to_come_again() -> None:
    clock = Clock()
    admission = Admission(100, clock)
    for _ in range(100):  # 10 rows a second
        clock.now += 1.0
        with admission.room(10):
            pass
    with admission.room(100), pytest.raises(Refused) as refused, admission.room(1):
        pass
    assert 9 <= int(refused.value.headers["Retry-After"]) <= 11


def test_a_spent_budget_is_not_worth_asking_again() -> None:
    spent = refused(BudgetError("never"))
    assert (spent.status, spent.headers) == (402, {})
