from __future__ import annotations

from rayalign.config.sections import SamplingConfig
from rayalign.rollout.base import Finished, Request
from rayalign.rollout.drafts import Drafts


def _request(key: str, prompt: tuple[int, ...] = (1, 2)) -> Request:
    return Request(key, prompt, 0, SamplingConfig(max_tokens=3), stop_ids=(9,))


def test_versions_become_runs() -> None:
    draft = Drafts(10).submit(_request("c"))
    assert draft is not None
    for token, version in ((5, 3), (6, 3), (9, 4)):
        draft.add(token, -token / 10, version)
    assert draft.finished("stop") == Finished("c", (5, 6, 9), (-0.5, -0.6, -0.9), ((0, 3), (2, 4)), "stop")


def test_impossible_prompts_are_pending_until_they_are_taken() -> None:
    drafts = Drafts(2)
    assert drafts.submit(_request("long")) is None
    assert drafts.submit(_request("empty", prompt=())) is None
    assert drafts.pending == 2
    assert [(f.key, f.tokens, f.reason, bool(f.failure)) for f in drafts.take()] == [
        ("long", (), None, True),
        ("empty", (), None, True),
    ]
    assert drafts.pending == 0


def test_a_failed_candidate_leaves_with_its_reason() -> None:
    drafts = Drafts(10)
    for key in ("a", "b"):
        drafts.submit(_request(key))
    drafts.fail("b", "broken")
    assert drafts.take() == [Finished("b", failure="broken")]
    assert drafts.pending == 1


def test_a_candidate_that_left_may_come_again_as_its_next_turn() -> None:
    drafts = Drafts(10)
    draft = drafts.submit(_request("c"))
    assert draft is not None
    drafts.finish(draft, "stop")
    drafts.take()
    assert drafts.submit(_request("c", prompt=(1, 2, 5, 6))) is not None


def test_a_draft_that_is_given_up_never_leaves() -> None:
    drafts = Drafts(10)
    for key in ("a", "b"):
        drafts.submit(_request(key))
    drafts.abort({"a", "elsewhere"})
    assert (drafts.in_flight, drafts.pending, drafts.take()) == ([_request("b")], 1, [])
    assert drafts.submit(_request("a")) is not None
