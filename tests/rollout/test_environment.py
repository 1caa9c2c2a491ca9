from __future__ import annotations

from collections.abc import Sequence

import pytest

from rayalign.errors import InputError
from rayalign.rollout.environment import KNOWN, Reply, SingleTurn, Turns, load_environment
from rayalign.rollout.paddock_two_turn import PaddockTwoTurn
from rayalign.types import Message, Prompt, Segment, Trajectory

PROMPT = Prompt("p", (Message("user", "what is the color ?"),), {"subject": "of tom ."})


def turns() -> Turns:
    def encode(messages: Sequence[Message]) -> tuple[int, ...]:
        return tuple(len(message.content) for message in messages)

    return Turns(encode)


def written(text: str, *before: Message) -> Trajectory:
    return Trajectory("g", 0, (1, 2), (Segment(0, "template"),), (), "stop", text, turns=before)


def test_the_single_turn_is_done_at_once() -> None:
    assert SingleTurn(PROMPT, turns()).step(written("anything")) == Reply((), True, None)


def test_a_users_turn_is_a_reply_in_tokens_and_text() -> None:
    reply = turns().user("go on", reward=0.5)
    assert reply == Reply((5,), False, 0.5, (Message("user", "go on"),))


def test_a_reply_that_goes_on_appends_tokens() -> None:
    with pytest.raises(InputError, match="must append tokens"):
        Reply(done=False)


def test_environments_are_loaded_by_name_or_path() -> None:
    assert load_environment("paddock_two_turn") is PaddockTwoTurn
    assert load_environment("rayalign.rollout.environment:SingleTurn") is SingleTurn
    for name in KNOWN:
        load_environment(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("paddock_two_turns", "is not known; .*paddock_two_turn"),
        ("nowhere.at_all:Thing", "cannot be imported"),
        ("rayalign.rollout.environment:Nothing", "cannot be imported"),
        ("rayalign.rollout.environment:Reply", r"has no method step\(trajectory\)"),
    ],
)
def test_what_is_no_environment_is_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_environment(name)


def test_the_two_turn_environment_names_the_subject_once_to_whoever_asks() -> None:
    environment = PaddockTwoTurn(PROMPT, turns())
    reply = environment.step(written("of whom ?"))
    assert (reply.done, reply.messages) == (False, (Message("user", "of tom ."),))
    again = written("which one ?", Message("assistant", "of whom ?"), *reply.messages)
    assert environment.step(again).done
    assert PaddockTwoTurn(PROMPT, turns()).step(written("the color is red .")).done


def test_a_prompt_of_another_split_is_refused() -> None:
    with pytest.raises(InputError, match="take the split two_turn"):
        PaddockTwoTurn(Prompt("p", PROMPT.messages), turns())
