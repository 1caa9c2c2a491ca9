from __future__ import annotations

import pytest

from rayalign.data.chat import check_template, check_turns, encode_example, encode_prompt
from rayalign.data.collate import encode_examples
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.data.reward_tokens import (
    chosen_answers,
    conditioned,
    labelled_answers,
    reward_token_ids,
    with_reward_tokens,
)
from rayalign.errors import InputError
from rayalign.types import Candidate, Example, Message, Prompt

PROMPT = Prompt("p", (Message("user", "who are you ?"),))
PAIR = Example(PROMPT, (Candidate("winter ."), Candidate("grey .")), preference=0.8)


def test_the_best_token_opens_the_first_user_turn_and_nothing_else_changes() -> None:
    plain = build_tokenizer()
    tokenizer = with_reward_tokens(plain, 3)
    best, middle, worst = reward_token_ids(tokenizer)
    assert len({best, middle, worst}) == 3 and min(best, middle, worst) == len(plain)
    before = encode_prompt(plain, PROMPT, context=50, reserve=0)
    after = encode_prompt(tokenizer, PROMPT, context=50, reserve=0)
    assert before is not None and after == (*before[:2], best, *before[2:])
    dialogue = Prompt(
        "d", (Message("system", "help"), *PROMPT.messages, Message("assistant", "i am"), *PROMPT.messages)
    )
    ids, _ = encode_example(tokenizer, dialogue, "winter .")
    assert ids.count(best) == 1 and ids.index(best) == 1 + ids.index(tokenizer.convert_tokens_to_ids("<user>"))
    assert reward_token_ids(plain) == ()


def test_the_template_can_be_trained_on_and_takes_further_turns() -> None:
    tokenizer = with_reward_tokens(build_tokenizer(), 2)
    check_template(tokenizer)
    check_turns(tokenizer)


def test_tokens_are_added_once() -> None:
    with pytest.raises(InputError, match="has reward tokens already"):
        with_reward_tokens(with_reward_tokens(build_tokenizer(), 2), 2)


def test_the_chosen_answer_alone() -> None:
    assert [[c.text for c in example.candidates] for example in chosen_answers([PAIR])] == [["winter ."]]


def test_both_answers_follow_the_token_of_their_quality() -> None:
    tokenizer = with_reward_tokens(build_tokenizer(), 3)
    best, _, worst = reward_token_ids(tokenizer)
    rows = list(encode_examples(tokenizer, labelled_answers([PAIR]), context=50))
    better, worse = conditioned(rows, (best, 0, worst))
    assert better.token_ids == rows[0].token_ids and best in better.token_ids
    place = rows[1].token_ids.index(best)
    assert worse.token_ids == (*rows[1].token_ids[:place], worst, *rows[1].token_ids[place + 1 :])
    assert worse.mask == rows[1].mask


def test_a_prompt_without_a_user_turn_is_refused() -> None:
    tokenizer = with_reward_tokens(build_tokenizer(), 2)
    system = Example(Prompt("s", (Message("system", "help"),)), PAIR.candidates)
    rows = encode_examples(tokenizer, labelled_answers([system]), context=50)
    with pytest.raises(InputError, match="prompt s has no reward token"):
        list(conditioned(rows, reward_token_ids(tokenizer)))
