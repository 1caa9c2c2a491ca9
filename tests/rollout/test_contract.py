"""What every engine must do, asked of all of them alike."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

from rayalign.config.sections import SamplingConfig
from rayalign.errors import WeightError
from rayalign.rollout.base import Engine, Finished, Request
from rayalign.types import Trajectory
from tests.rollout.engines import CONFIG, Pair, model_pair, scripted_pair

VLLM = [pytest.mark.vllm, pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm")]


@pytest.fixture(
    scope="module",
    params=["scripted", "local-tied", "local-untied"]
    + [pytest.param(f"vllm-{kind}", marks=VLLM) for kind in ("tied", "untied")],
)
def engines(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    name, _, kind = request.param.partition("-")
    folder = tmp_path_factory.mktemp(request.param)
    with scripted_pair() if name == "scripted" else model_pair(name, kind == "tied", folder) as pair:
        yield pair


@pytest.fixture
def pair(engines: Pair) -> Pair:
    engines.engine.load(engines.first.items(), 1)
    return engines


def _request(name: str, *, tokens: int = 12, seeds: tuple[int, ...] = (1, 2), stop: tuple[int, ...] = ()) -> Request:
    prompt = (5, 6, 7, *(int(c) + 10 for c in name if c.isdigit()))
    return Request(name, prompt, tuple(s + 100 * prompt[-1] for s in seeds), SamplingConfig(max_tokens=tokens), stop)


def _finish(engine: Engine) -> list[Finished]:
    found = []
    for _ in range(500):
        if not engine.pending:
            return found
        found += engine.step()
    raise AssertionError("groups did not finish")


def _run(engine: Engine, requests: list[Request]) -> dict[str, tuple[Trajectory, ...]]:
    for request in requests:
        engine.submit(request)
    return {f.group_id: f.trajectories for f in _finish(engine)}


def _answer(trajectory: Trajectory) -> list[int]:
    return [t for t, own in zip(trajectory.token_ids, trajectory.policy_mask, strict=True) if own]


def test_a_group_comes_whole_and_in_the_order_of_its_seeds(pair: Pair) -> None:
    request = _request("g1", seeds=(3, 4, 5))
    trajectories = _run(pair.engine, [request])["g1"]
    assert [t.index for t in trajectories] == [0, 1, 2]
    assert len({t.token_ids for t in trajectories}) == 3
    for t in trajectories:
        assert t.group_id == "g1" and t.finish_reason == "length" and t.text == ""
        assert t.token_ids[: len(request.prompt_ids)] == request.prompt_ids
        assert t.policy_mask == [False] * len(request.prompt_ids) + [True] * 12
        assert len(t.logprobs) == 12 and t.version == 1


def test_seeds_alone_decide_what_is_drawn(pair: Pair) -> None:
    requests = [_request(f"g{i}", tokens=6 + i) for i in range(6)]
    together = _run(pair.engine, requests)
    for other in (_run(pair.engine, requests[::-1]), _run(pair.engine, requests[3:])):
        for name, trajectories in other.items():
            assert [t.token_ids for t in trajectories] == [t.token_ids for t in together[name]]
            for a, b in zip(trajectories, together[name], strict=True):
                assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


def test_more_sequences_than_fit_at_once_all_come(pair: Pair) -> None:
    requests = [_request(f"g{i}", tokens=3 + i % 4) for i in range(CONFIG.max_sequences + 3)]
    found = _run(pair.engine, requests)
    assert sorted(found) == sorted(r.group_id for r in requests)
    alone = _run(pair.engine, [requests[-1]])
    assert [t.token_ids for t in found[requests[-1].group_id]] == [t.token_ids for t in alone[requests[-1].group_id]]


def test_logprobs_are_those_of_a_forward_pass(pair: Pair) -> None:
    for trajectory in _run(pair.engine, [_request("g1")])["g1"]:
        expected = pair.score(pair.first, trajectory.token_ids)[-12:]
        assert trajectory.logprobs == pytest.approx(expected, abs=1e-4)


def test_greedy_takes_the_most_likely_token(pair: Pair) -> None:
    request = Request("g", (5, 6), (1, 2), SamplingConfig(temperature=0.0, max_tokens=5), ())
    first, second = _run(pair.engine, [request])["g"]
    assert first.token_ids == second.token_ids
    expected = pair.score(pair.first, first.token_ids)[-5:]
    assert first.logprobs == pytest.approx(expected, abs=1e-4)
    for other in (1, 50, 100):
        assert pair.score(pair.first, (5, 6, other))[-1] <= first.logprobs[0] + 1e-4


def test_the_stop_token_is_kept_and_trained_on(pair: Pair) -> None:
    free = _run(pair.engine, [_request("g1")])["g1"][0]
    stop = _answer(free)[4]
    stopped = _run(pair.engine, [_request("g1", stop=(stop,))])["g1"][0]
    length = _answer(free).index(stop) + 1
    assert stopped.finish_reason == "stop"
    assert _answer(stopped) == _answer(free)[:length]
    assert len(stopped.logprobs) == length


def test_the_context_cuts_an_answer(pair: Pair) -> None:
    request = Request("g", tuple(range(60)), (1,), SamplingConfig(max_tokens=12), ())
    (trajectory,) = _run(pair.engine, [request])["g"]
    assert len(trajectory.token_ids) == CONFIG.context and trajectory.finish_reason == "length"


def test_a_prompt_without_room_for_an_answer_fails(pair: Pair) -> None:
    long = Request("long", tuple(range(CONFIG.context)), (1, 2), SamplingConfig(), ())
    pair.engine.submit(long)
    pair.engine.submit(_request("g1"))
    found = {f.group_id: f for f in _finish(pair.engine)}
    assert found["long"].trajectories == () and "64 tokens" in (found["long"].failure or "")
    assert len(found["g1"].trajectories) == 2 and found["g1"].failure is None


def test_an_aborted_group_does_not_come_out(pair: Pair) -> None:
    alone = _run(pair.engine, [_request("g2")])["g2"]
    pair.engine.submit(_request("g1"))
    pair.engine.submit(_request("g2"))
    pair.engine.step()
    pair.engine.abort(["g1", "unknown"])
    assert pair.engine.pending == 1
    (found,) = _finish(pair.engine)
    assert found.group_id == "g2"
    assert [t.token_ids for t in found.trajectories] == [t.token_ids for t in alone]
    assert list(_run(pair.engine, [_request("g1")])) == ["g1"]


def test_groups_leave_as_they_finish(pair: Pair) -> None:
    pair.engine.submit(_request("g1", tokens=30))
    pair.engine.submit(_request("g2", tokens=2))
    found: list[Finished] = []
    while not found:
        found = pair.engine.step()
    assert [f.group_id for f in found] == ["g2"] and pair.engine.pending == 1
    assert [f.group_id for f in _finish(pair.engine)] == ["g1"]


def test_scores_are_those_of_a_forward_pass(pair: Pair) -> None:
    sequences = [[5, 6, 7, 8, 9], [1, 2], [3]]
    scores = pair.engine.score(sequences)
    assert [len(row) for row in scores] == [4, 1, 0]
    for row, ids in zip(scores, sequences, strict=True):
        assert row == pytest.approx(pair.score(pair.first, ids), abs=1e-4)


def test_scoring_loses_no_group(pair: Pair) -> None:
    pair.engine.submit(_request("g1", tokens=3))
    for _ in range(3):
        pair.engine.score([[1, 2, 3]])
    assert [f.group_id for f in _finish(pair.engine)] == ["g1"]


def test_after_a_load_it_is_the_same_as_a_fresh_engine(pair: Pair) -> None:
    sequences = [[5, 6, 7, 8, 9], [1, 2, 3]]
    requests = [_request(f"g{i}") for i in range(4)]
    before = pair.engine.score(sequences)
    pair.engine.load(pair.second.items(), 0)
    assert pair.engine.score(sequences) == pair.fresh.score(sequences) != before
    assert _run(pair.engine, requests) == _run(pair.fresh, requests)


def test_a_load_in_flight_splits_the_answer_into_segments(pair: Pair) -> None:
    request = _request("g1", tokens=10)
    pair.engine.submit(request)
    for _ in range(4):
        pair.engine.step()
    pair.engine.load(pair.second.items(), 8)
    assert pair.engine.version == 8
    (finished,) = _finish(pair.engine)
    start = len(request.prompt_ids)
    for trajectory in finished.trajectories:
        assert [(s.author, s.version) for s in trajectory.segments] == [("template", -1), ("policy", 1), ("policy", 8)]
        assert [s.start for s in trajectory.segments] == [0, start, start + 4]
        assert trajectory.version == 1
        old = pair.score(pair.first, trajectory.token_ids[: start + 4])[-4:]
        new = pair.score(pair.second, trajectory.token_ids)[-6:]
        assert trajectory.logprobs == pytest.approx([*old, *new], abs=1e-4)


def test_an_incomplete_load_is_refused(pair: Pair) -> None:
    with pytest.raises(WeightError, match="did not come"):
        pair.engine.load(list(pair.second.items())[:-1], 9)
    with pytest.raises(WeightError, match="not part of the loaded model"):
        pair.engine.load([("nothing.weight", next(iter(pair.first.values())))], 9)


def test_it_works_again_after_sleep(pair: Pair) -> None:
    expected = _run(pair.engine, [_request("g1")])
    pair.engine.sleep()
    pair.engine.wake()
    pair.engine.load(pair.first.items(), 1)
    assert _run(pair.engine, [_request("g1")]) == expected
