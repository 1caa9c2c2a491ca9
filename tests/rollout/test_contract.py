"""What every engine must do, asked of all of them alike."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from rayalign.config.sections import SamplingConfig
from rayalign.errors import WeightError
from rayalign.rollout.base import Engine, Finished, Request, restart
from rayalign.rollout.scripted import ScriptedEngine
from tests.rollout.engines import CONFIG, VOCAB, Pair, model_pair, scripted_pair, weights

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
    engines.engine.load(weights(engines.first, 1))
    return engines


def _request(key: str, *, tokens: int = 12, seed: int = 1, stop: tuple[int, ...] = ()) -> Request:
    prompt = (5, 6, 7, *(int(c) + 10 for c in key if c.isdigit()))
    return Request(key, prompt, seed + 100 * prompt[-1], SamplingConfig(max_tokens=tokens), stop)


def _finish(engine: Engine) -> list[Finished]:
    candidates: list[Finished] = []
    for _ in range(500):
        if not engine.pending:
            return candidates
        candidates += engine.step()
    raise AssertionError("candidates did not finish")


def _run(engine: Engine, requests: list[Request]) -> dict[str, Finished]:
    for request in requests:
        engine.submit(request)
    return {candidate.key: candidate for candidate in _finish(engine)}


def test_a_candidate_comes_with_its_tokens_alone(pair: Pair) -> None:
    requests = [Request(f"c{seed}", (5, 6, 7), seed, SamplingConfig(max_tokens=12), ()) for seed in (3, 4, 5)]
    candidates = _run(pair.engine, requests)
    assert sorted(candidates) == ["c3", "c4", "c5"]
    assert len({candidate.tokens for candidate in candidates.values()}) == 3
    for candidate in candidates.values():
        assert candidate.reason == "length" and candidate.failure is None
        assert len(candidate.tokens) == len(candidate.logprobs) == 12
        assert candidate.version_runs == ((0, 1),)


def test_seeds_alone_decide_what_is_drawn(pair: Pair) -> None:
    requests = [_request(f"c{i}", tokens=6 + i) for i in range(6)]
    together = _run(pair.engine, requests)
    for order in (requests[::-1], requests[3:]):
        for key, candidate in _run(pair.engine, order).items():
            assert candidate.tokens == together[key].tokens
            assert candidate.logprobs == pytest.approx(together[key].logprobs, abs=1e-4)


def test_candidates_of_one_prompt_are_written_as_each_would_be_alone(pair: Pair) -> None:
    requests = [Request(f"c{seed}", (5, 6, 7), seed, SamplingConfig(max_tokens=3 + seed), ()) for seed in (3, 4, 5)]
    requests.insert(1, Request("c9", (8, 9), 9, SamplingConfig(max_tokens=6), ()))
    together = _run(pair.engine, requests)
    for request in requests:
        candidate = together[request.key]
        assert candidate.tokens == _run(pair.engine, [request])[request.key].tokens
        expected = pair.score(pair.first, (*request.prompt_ids, *candidate.tokens))[-len(candidate.tokens) :]
        assert candidate.logprobs == pytest.approx(expected, abs=1e-4)


def test_more_sequences_than_fit_at_once_all_come(pair: Pair) -> None:
    requests = [_request(f"c{i}", tokens=3 + i % 4) for i in range(2 * CONFIG.max_sequences + 3)]
    candidates = _run(pair.engine, requests)
    assert sorted(candidates) == sorted(r.key for r in requests)
    alone = _run(pair.engine, [requests[-1]])
    assert candidates[requests[-1].key].tokens == alone[requests[-1].key].tokens


def test_a_next_turn_goes_on_from_a_longer_prefix(pair: Pair) -> None:
    """With the same key, and drawn as it is for any request with this prompt."""
    request = _request("c1", tokens=4)
    first = _run(pair.engine, [request])["c1"]
    longer = replace(request, prompt_ids=(*request.prompt_ids, *first.tokens, 8, 9))
    second = _run(pair.engine, [longer])["c1"]
    assert second.tokens == _run(pair.engine, [replace(longer, key="fresh")])["fresh"].tokens
    expected = pair.score(pair.first, (*longer.prompt_ids, *second.tokens))[-4:]
    assert second.logprobs == pytest.approx(expected, abs=1e-4)


def test_logprobs_are_those_of_a_forward_pass(pair: Pair) -> None:
    request = _request("c1")
    candidate = _run(pair.engine, [request])["c1"]
    expected = pair.score(pair.first, (*request.prompt_ids, *candidate.tokens))[-12:]
    assert candidate.logprobs == pytest.approx(expected, abs=1e-4)


def test_logprobs_are_of_the_distribution_at_its_temperature(pair: Pair) -> None:
    request = Request("c", (5, 6, 7), 1, SamplingConfig(temperature=0.5, max_tokens=1), ())
    candidate = _run(pair.engine, [request])["c"]
    plain_V = torch.tensor([pair.score(pair.first, (5, 6, 7, token))[-1] for token in range(VOCAB)])
    expected_V = (plain_V / 0.5).log_softmax(-1)
    assert candidate.logprobs[0] == pytest.approx(float(expected_V[candidate.tokens[0]]), abs=1e-4)


def test_each_candidate_is_drawn_by_its_own_sampling(pair: Pair) -> None:
    requests = []
    for temperature in (0.5, 2.0):
        sampling = SamplingConfig(temperature=temperature, max_tokens=1)
        requests.append(Request(f"{temperature}", (5, 6, 7), 1, sampling, ()))
    candidates = _run(pair.engine, requests)
    plain_V = torch.tensor([pair.score(pair.first, (5, 6, 7, token))[-1] for token in range(VOCAB)])
    for temperature in (0.5, 2.0):
        candidate = candidates[f"{temperature}"]
        expected_V = (plain_V / temperature).log_softmax(-1)
        assert candidate.logprobs[0] == pytest.approx(float(expected_V[candidate.tokens[0]]), abs=1e-4)


def test_greedy_takes_the_most_likely_token(pair: Pair) -> None:
    requests = [Request(f"c{seed}", (5, 6), seed, SamplingConfig(temperature=0.0, max_tokens=5), ()) for seed in (1, 2)]
    first, second = _run(pair.engine, requests).values()
    assert first.tokens == second.tokens
    expected = pair.score(pair.first, (5, 6, *first.tokens))[-5:]
    assert first.logprobs == pytest.approx(expected, abs=1e-4)
    for other in (1, 50, 100):
        assert pair.score(pair.first, (5, 6, other))[-1] <= first.logprobs[0] + 1e-4


@pytest.mark.parametrize("cut", [{"top_k": 1}, {"top_p": 1e-6}])
def test_where_one_token_is_left_to_draw_the_answer_is_greedy(pair: Pair, cut: dict[str, float]) -> None:
    if isinstance(pair.engine, ScriptedEngine):
        pytest.skip("it draws from its whole table")
    sampling = SamplingConfig.model_validate({"max_tokens": 5, **cut})
    drawn = _run(pair.engine, [Request(f"c{seed}", (5, 6), seed, sampling, ()) for seed in (1, 2, 3)])
    greedy = Request("greedy", (5, 6), 0, SamplingConfig(temperature=0.0, max_tokens=5), ())
    expected = _run(pair.engine, [greedy])["greedy"].tokens
    assert [candidate.tokens for candidate in drawn.values()] == [expected] * 3


def test_with_top_k_each_of_the_likeliest_tokens_is_drawn_and_no_other(pair: Pair) -> None:
    if isinstance(pair.engine, ScriptedEngine):
        pytest.skip("it draws from its whole table")
    sampling = SamplingConfig(max_tokens=1, top_k=3, temperature=2.0)
    drawn = _run(pair.engine, [Request(f"c{seed}", (5, 6), seed, sampling, ()) for seed in range(40)])
    logprobs_V = torch.tensor([pair.score(pair.first, (5, 6, token))[-1] for token in range(VOCAB)])
    assert {candidate.tokens[0] for candidate in drawn.values()} == set(logprobs_V.topk(3).indices.tolist())


def _searched(pair: Pair, count: int, **beams: object) -> list[Finished]:
    """Candidates of one prompt that are the answers of one search."""
    if isinstance(pair.engine, ScriptedEngine):
        pytest.skip("it has no probabilities to search in")
    sampling = SamplingConfig.model_validate({"max_tokens": 5, "beams": beams})
    requests = [Request(f"c{draw}", (5, 6), 0, sampling, (), draw) for draw in range(count)]
    candidates = _run(pair.engine, requests)
    return [candidates[request.key] for request in requests]


def test_a_search_of_one_beam_is_greedy(pair: Pair) -> None:
    (beam,) = _searched(pair, 1, width=1)
    greedy = Request("greedy", (5, 6), 0, SamplingConfig(temperature=0.0, max_tokens=5), ())
    assert beam.tokens == _run(pair.engine, [greedy])["greedy"].tokens
    assert beam.version_runs == ((0, 1),) and beam.reason == "length"


def test_the_answers_of_a_search_are_different_candidates_the_best_first(pair: Pair) -> None:
    beams = _searched(pair, 4, width=4, length_exponent=0.0)
    assert len({beam.tokens for beam in beams}) == 4
    sums = [sum(beam.logprobs) for beam in beams]
    assert sums == sorted(sums, reverse=True)
    for beam in beams:
        assert beam.logprobs == pytest.approx(pair.score(pair.first, (5, 6, *beam.tokens))[-5:], abs=1e-4)


def test_groups_of_beams_begin_differently(pair: Pair) -> None:
    beams = _searched(pair, 3, width=3, groups=3, penalty=50.0)
    assert len({beam.tokens[0] for beam in beams}) == 3


def test_each_search_has_the_probabilities_of_its_own_temperature(pair: Pair) -> None:
    if isinstance(pair.engine, ScriptedEngine):
        pytest.skip("it has no probabilities to search in")
    requests = []
    for temperature in (0.5, 2.0):
        sampling = SamplingConfig.model_validate({"temperature": temperature, "max_tokens": 1, "beams": {"width": 1}})
        requests.append(Request(f"{temperature}", (5, 6), 0, sampling, ()))
    answers = _run(pair.engine, requests)
    plain_V = torch.tensor([pair.score(pair.first, (5, 6, token))[-1] for token in range(VOCAB)])
    for temperature in (0.5, 2.0):
        likeliest = float((plain_V / temperature).log_softmax(-1).max())
        assert answers[f"{temperature}"].logprobs == pytest.approx((likeliest,), abs=1e-4)


def test_a_candidate_beyond_the_answers_of_its_search_fails(pair: Pair) -> None:
    *_, last = _searched(pair, 3, width=2)
    assert last.failure == "the beam search found 2 answers"


def test_the_stop_token_is_kept_and_trained_on(pair: Pair) -> None:
    free = _run(pair.engine, [_request("c1")])["c1"]
    stop = free.tokens[4]
    stopped = _run(pair.engine, [_request("c1", stop=(stop,))])["c1"]
    length = free.tokens.index(stop) + 1
    assert stopped.reason == "stop"
    assert stopped.tokens == free.tokens[:length]
    assert len(stopped.logprobs) == length


def test_the_context_cuts_an_answer(pair: Pair) -> None:
    request = Request("c", tuple(range(60)), 1, SamplingConfig(max_tokens=12), ())
    candidate = _run(pair.engine, [request])["c"]
    assert len(candidate.tokens) == CONFIG.context - 60 and candidate.reason == "length"


def test_a_prompt_without_room_for_an_answer_fails(pair: Pair) -> None:
    long = Request("long", tuple(range(CONFIG.context)), 1, SamplingConfig(), ())
    candidates = _run(pair.engine, [long, _request("c1")])
    assert candidates["long"].tokens == () and "64 tokens" in (candidates["long"].failure or "")
    assert candidates["long"].reason is None
    assert len(candidates["c1"].tokens) == 12 and candidates["c1"].failure is None


def test_candidates_leave_as_they_finish(pair: Pair) -> None:
    pair.engine.submit(_request("c1", tokens=30))
    pair.engine.submit(_request("c2", tokens=2))
    candidates: list[Finished] = []
    while not candidates:
        candidates = pair.engine.step()
    assert [c.key for c in candidates] == ["c2"] and pair.engine.pending == 1
    assert [c.key for c in _finish(pair.engine)] == ["c1"]


def test_scores_are_those_of_a_forward_pass(pair: Pair) -> None:
    sequences = [[5, 6, 7, 8, 9], [1, 2], [3]]
    scores = pair.engine.score(sequences)
    assert [len(row) for row in scores] == [4, 1, 0]
    for row, ids in zip(scores, sequences, strict=True):
        assert row == pytest.approx(pair.score(pair.first, ids), abs=1e-4)


def test_scoring_loses_no_candidate(pair: Pair) -> None:
    pair.engine.submit(_request("c1", tokens=3))
    for _ in range(3):
        pair.engine.score([[1, 2, 3]])
    assert [c.key for c in _finish(pair.engine)] == ["c1"]


def test_after_a_load_it_is_the_same_as_a_fresh_engine(pair: Pair) -> None:
    sequences = [[5, 6, 7, 8, 9], [1, 2, 3]]
    requests = [_request(f"c{i}") for i in range(4)]
    before = pair.engine.score(sequences)
    pair.engine.load(weights(pair.second, 0))
    assert pair.engine.score(sequences) == pair.fresh.score(sequences) != before
    assert _run(pair.engine, requests) == _run(pair.fresh, requests)


def test_a_load_in_flight_splits_the_answer_into_runs(pair: Pair) -> None:
    request = _request("c1", tokens=10)
    pair.engine.submit(request)
    for _ in range(4):
        pair.engine.step()
    pair.engine.load(weights(pair.second, 8))
    assert pair.engine.version == 8
    (candidate,) = _finish(pair.engine)
    assert candidate.version_runs == ((0, 1), (4, 8))
    start = len(request.prompt_ids)
    sequence = (*request.prompt_ids, *candidate.tokens)
    old = pair.score(pair.first, sequence[: start + 4])[-4:]
    new = pair.score(pair.second, sequence)[-6:]
    assert candidate.logprobs == pytest.approx([*old, *new], abs=1e-4)


def test_a_restart_writes_what_is_in_flight_anew_with_the_new_weights(pair: Pair) -> None:
    """With the seeds that it had: an answer is the one that a fresh engine with these weights writes."""
    requests = [_request(f"c{i}", tokens=10) for i in range(2 * CONFIG.max_sequences)]
    for request in requests:
        pair.engine.submit(request)
    for _ in range(4):
        pair.engine.step()
    pair.engine.load(weights(pair.second, 0))
    assert restart(pair.engine) == len(requests)
    assert {candidate.key: candidate for candidate in _finish(pair.engine)} == _run(pair.fresh, requests)


def test_a_restart_leaves_alone_what_is_finished(pair: Pair) -> None:
    pair.engine.submit(_request("c1", tokens=30))
    pair.engine.submit(_request("c2", tokens=2))
    while len(pair.engine.in_flight) == 2:
        finished = pair.engine.step()
    assert [candidate.key for candidate in finished] == ["c2"]
    assert restart(pair.engine) == 1
    assert [candidate.key for candidate in _finish(pair.engine)] == ["c1"]


def test_an_aborted_candidate_never_comes_and_harms_no_other(pair: Pair) -> None:
    requests = [_request(f"c{i}", tokens=8) for i in range(5)]
    undisturbed = _run(pair.engine, requests)
    for request in requests:
        pair.engine.submit(request)
    pair.engine.abort({"c1", "elsewhere"})  # before its first token
    for _ in range(3):
        pair.engine.step()
    pair.engine.abort({"c0", "c3"})
    assert [request.key for request in pair.engine.in_flight] == ["c2", "c4"]
    written = {candidate.key: candidate for candidate in _finish(pair.engine)}
    assert sorted(written) == ["c2", "c4"]
    for key, candidate in written.items():
        assert candidate.tokens == undisturbed[key].tokens
    assert _run(pair.engine, [requests[1]])["c1"].tokens == undisturbed["c1"].tokens


def test_an_aborted_search_never_comes(pair: Pair) -> None:
    if isinstance(pair.engine, ScriptedEngine):
        pytest.skip("it has no probabilities to search in")
    sampling = SamplingConfig.model_validate({"max_tokens": 5, "beams": {"width": 2}})
    for draw in range(2):
        pair.engine.submit(Request(f"c{draw}", (5, 6), 0, sampling, (), draw))
    pair.engine.abort({"c0"})
    assert [candidate.key for candidate in _finish(pair.engine)] == ["c1"]


def test_an_incomplete_load_is_refused(pair: Pair) -> None:
    with pytest.raises(WeightError, match="did not come"):
        pair.engine.load(weights(dict(list(pair.second.items())[:-1]), 9))
    with pytest.raises(WeightError, match="not part of the loaded model"):
        pair.engine.load(weights({"nothing.weight": next(iter(pair.first.values()))}, 9))


def test_it_takes_new_weights_before_its_cache_is_awake(pair: Pair) -> None:
    pair.engine.sleep()
    pair.engine.wake("weights")
    pair.engine.load(weights(pair.second, 0))
    pair.engine.wake("cache")
    assert pair.engine.score([[5, 6, 7]]) == pair.fresh.score([[5, 6, 7]])
    assert _run(pair.engine, [_request("c1")]) == _run(pair.fresh, [_request("c1")])


def test_it_goes_on_with_the_weights_that_it_kept(pair: Pair) -> None:
    expected = _run(pair.engine, [_request("c1")])
    pair.engine.sleep(keep_weights=True)
    pair.engine.wake("weights")
    pair.engine.wake("cache")
    assert _run(pair.engine, [_request("c1")]) == expected
