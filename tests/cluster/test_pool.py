"""The pool and the weight channel over real actors, each with an engine of plain transformers."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from transformers import AutoModelForCausalLM

from rayalign.actors.learner import LearnerSpec
from rayalign.algorithms.base import load
from rayalign.cluster.channel import WeightChannel, load_folder, prove
from rayalign.cluster.group import ActorGroup
from rayalign.cluster.placement import free_cpus
from rayalign.cluster.pool import GeneratorPool
from rayalign.cluster.pool_start import start_pool
from rayalign.cluster.roles import start_roles
from rayalign.config import ClusterConfig, LearnerConfig, RoleConfig, RolloutConfig, SamplingConfig
from rayalign.data.chat import decode_answer, load_tokenizer
from rayalign.data.collate import EncodedRow, collate_examples
from rayalign.errors import WeightError
from rayalign.rollout.base import Finished, Request
from rayalign.storage.events import EventLog
from rayalign.weights.buckets import Bucket, pack
from rayalign.weights.files import read_folder
from rayalign.weights.paths.base import Header, PathConfig
from rayalign.weights.paths.inbox import END
from rayalign.weights.probe import Bound, Probe, probe_tokens, tolerance

pytestmark = pytest.mark.ray
CLUSTER = ClusterConfig(call_timeout=300.0)
TOKENS = probe_tokens(100)


def requests(count: int, max_tokens: int = 12) -> list[Request]:
    """Two candidates of each of `count / 2` prompts."""
    sampling = SamplingConfig(max_tokens=max_tokens)
    return [Request(f"c{i}", (5, 6 + i // 2), i, sampling, ()) for i in range(count)]


def generate(pool: GeneratorPool, wanted: list[Request]) -> list[Finished]:
    """All candidates, in the order of their requests."""
    return asyncio.run(collect(pool, wanted))


async def collect(pool: GeneratorPool, wanted: list[Request]) -> list[Finished]:
    await pool.submit(wanted)
    return await gather(pool, wanted)


async def gather(pool: GeneratorPool, wanted: list[Request]) -> list[Finished]:
    """Candidates that were submitted before, in the order of their requests."""
    candidates: dict[str, Finished] = {}
    async with aclosing(pool.finished()) as stream:
        while len(candidates) < len(wanted):
            candidate = await asyncio.wait_for(anext(stream), CLUSTER.call_timeout)
            assert candidate.key not in candidates, "a candidate came twice"
            candidates[candidate.key] = candidate
    return [candidates[request.key] for request in wanted]


def texts(candidates: list[Finished]) -> list[tuple[int, ...]]:
    return [candidate.tokens for candidate in candidates]


@pytest.fixture(scope="module")
def pool(ray_session: None, model: str, events: EventLog) -> Iterator[GeneratorPool]:
    config = RolloutConfig(engine="local", engines=4, context=64, max_sequences=8, cpus=0.4)
    made = asyncio.run(start_pool("local", model, config, CLUSTER, events))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def policy(ray_session: None, model: str, events: EventLog) -> Iterator[ActorGroup]:
    spec = LearnerSpec(
        model=model,
        config=LearnerConfig(learning_rate=1e-2, minibatch=4),
        algorithm={"name": "sft"},
        temperature=1.0,
        total_steps=10,
        seed=0,
        timeout=60.0,
    )
    roles = asyncio.run(start_roles({"policy": spec}, {}, CLUSTER, events))
    yield roles["policy"]
    roles.stop()


@pytest.fixture
def channel(events: EventLog) -> WeightChannel:
    path = PathConfig(name="store", timeout=60.0, bucket_bytes=1 << 18)
    return WeightChannel(TOKENS, bound=Bound("fp32"), path=path, events=events)


def update(policy: ActorGroup) -> None:
    """Some optimizer steps on a fixed batch."""
    rows = [EncodedRow(tuple(range(i, i + 10)), (False, *[True] * 9), i) for i in range(8)]
    batch = load({"name": "sft"}).prepare(collate_examples(rows, 0))
    asyncio.run(policy.all(lambda actor: actor.update.remote([ray.put(batch)], 1)))


def probe_of(policy: ActorGroup, version: int) -> Probe:
    rows = asyncio.run(policy.first(lambda actor: actor.probe.remote(TOKENS)))
    return Probe(version, TOKENS, tuple(map(tuple, rows)), tolerance("fp32"))


def tensors_of(policy: ActorGroup, model: str, folder: Path) -> dict[str, torch.Tensor]:
    asyncio.run(policy.all(lambda actor: actor.save.remote(str(folder), model)))
    return dict(read_folder(folder))


def send(pool: GeneratorPool, buckets: list[Bucket], version: int) -> None:
    """Hand buckets to every engine as the trainer's rank 0 does."""
    messages = [*map(ray.put, buckets), END]
    waits = []
    for actor in pool.group.actors:
        waits.append(actor.receive.remote(Header("full", version)))
        for number, message in enumerate(messages):
            actor.accept.remote(number, [message])
    ray.get(waits)


def test_every_candidate_comes_again_and_again(pool: GeneratorPool) -> None:
    """Each call follows the last one at once: no candidate may go to the call before."""
    first = generate(pool, requests(18))
    assert all(len(tokens) == 12 for tokens in texts(first))
    for _ in range(3):
        assert texts(generate(pool, requests(18))) == texts(first)
    assert pool.pending == 0


def test_a_pool_waits_for_cpus_that_are_still_counted_as_held(ray_session: None, model: str, events: EventLog) -> None:
    """Ray frees what ended a moment ago a little later: none free is no reason to claim none."""
    held, deadline = list[PlacementGroup](), time.monotonic() + 300
    while free := free_cpus():  # which may be told late, as much as more
        held.append(placement_group([{"CPU": free}]))
        if not held[-1].wait(1):
            remove_placement_group(held.pop())
        assert time.monotonic() < deadline
        time.sleep(0.5)
    threading.Timer(2.0, lambda: [remove_placement_group(group) for group in held]).start()
    config = RolloutConfig(engine="local", engines=1, context=64, max_sequences=8)
    made = asyncio.run(start_pool("local", model, config, CLUSTER, events))
    try:
        assert len(generate(made, requests(2))) == 2
    finally:
        made.stop()


def test_a_candidate_that_cannot_be_written_fails_alone(pool: GeneratorPool) -> None:
    long = Request("long", tuple(range(5, 75)), 1, SamplingConfig(), ())
    good, bad = generate(pool, [*requests(1), long])
    assert good.failure is None
    assert bad.failure is not None and "no room for an answer" in bad.failure


def test_engines_decode_with_the_tokenizer_that_the_pool_names(
    pool: GeneratorPool, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(pool.group.wires.to(actor) is not actor for actor in pool.group.actors)
    assert {candidate.text for candidate in generate(pool, requests(3))} == {None}
    monkeypatch.setattr(pool, "tokenizer", model)
    tokenizer = load_tokenizer(model)
    for candidate in generate(pool, requests(3)):
        assert candidate.text in (None, decode_answer(tokenizer, candidate.tokens))
    later = generate(pool, requests(3))  # by now every engine has loaded it
    assert [each.text for each in later] == [decode_answer(tokenizer, each.tokens) for each in later]


def test_a_transfer_is_proven_and_logged(
    pool: GeneratorPool, policy: ActorGroup, channel: WeightChannel, logged: Callable[[str], list[dict[str, Any]]]
) -> None:
    update(policy)
    done = asyncio.run(channel.transfer(policy, pool, 3))
    assert done.gap < 1e-4
    assert {candidate.version_runs for candidate in generate(pool, requests(3))} == {((0, 3),)}
    event = logged("published")[-1]
    assert (event["version"], event["probe_gap"]) == (3, done.gap)
    assert done.bytes == event["size"] > 1e6
    received = logged("received")
    assert {row["role"] for row in received} == {"generator", "policy"}
    assert not any(row["tensor"] for row in received)


def test_without_the_transfer_the_probe_fails(pool: GeneratorPool, policy: ActorGroup, channel: WeightChannel) -> None:
    asyncio.run(channel.transfer(policy, pool, 4))
    update(policy)
    with pytest.raises(WeightError, match="engine computes something else than the trainer with version 5"):
        asyncio.run(prove(pool, probe_of(policy, 5), 60.0))
    asyncio.run(channel.transfer(policy, pool, 5))
    assert asyncio.run(prove(pool, probe_of(policy, 5), 60.0)) < 1e-4


def test_a_policy_in_shards_is_proven_too(
    pool: GeneratorPool, model: str, channel: WeightChannel, events: EventLog
) -> None:
    """Under ZeRO-3 the probe is a forward pass of all ranks."""
    config = LearnerConfig(learning_rate=1e-2, minibatch=4, zero_stage=3, zero_live_parameters=0)
    spec = LearnerSpec(model, config, {"name": "sft"}, temperature=1.0, total_steps=10, seed=0, timeout=60.0)
    roles = asyncio.run(start_roles({"policy": spec}, {"policy": RoleConfig(actors=2)}, CLUSTER, events))
    try:
        update(roles["policy"])
        assert asyncio.run(channel.transfer(roles["policy"], pool, 6)).gap < 1e-4
    finally:
        roles.stop()


def test_weights_of_two_versions_do_not_pass_the_probe(
    pool: GeneratorPool, policy: ActorGroup, model: str, tmp_path: Path
) -> None:
    old = tensors_of(policy, model, tmp_path / "old")
    update(policy)
    mixed = tensors_of(policy, model, tmp_path / "new")
    stale = "model.layers.1.mlp.down_proj.weight"
    mixed[stale] = old[stale]
    send(pool, list(pack(mixed.items())), 8)
    with pytest.raises(WeightError, match="stale, mixed or cast"):
        asyncio.run(prove(pool, probe_of(policy, 8), 60.0))


@pytest.mark.parametrize("restarts", [False, True])
def test_new_weights_go_on_with_answers_in_flight_or_write_them_anew(
    pool: GeneratorPool, policy: ActorGroup, events: EventLog, *, restarts: bool
) -> None:
    path = PathConfig(name="store", timeout=60.0, bucket_bytes=1 << 18)
    channel = WeightChannel(TOKENS, bound=Bound("fp32"), path=path, events=events, restarts=restarts)
    wanted = requests(64, max_tokens=50)
    first, second = (40, 41) if restarts else (30, 31)

    async def run() -> tuple[list[Finished], int]:
        await channel.transfer(policy, pool, first)
        writing = asyncio.ensure_future(collect(pool, wanted))
        while pool.in_flight < len(wanted):
            await asyncio.sleep(0)
        while pool.in_flight == len(wanted):  # once the first ones are finished others are half written
            await asyncio.sleep(0.005)
        done = await channel.transfer(policy, pool, second)
        return await writing, done.restarted

    candidates, restarted = asyncio.run(run())
    several = [candidate for candidate in candidates if len(candidate.version_runs) > 1]
    versions = {version for candidate in candidates for _, version in candidate.version_runs}
    assert versions == {first, second}
    assert all(len(candidate.tokens) == len(candidate.logprobs) == 50 for candidate in candidates)
    if restarts:
        assert restarted > 0 and not several
    else:
        assert restarted == 0 and several
        assert {tuple(v for _, v in candidate.version_runs) for candidate in several} == {(first, second)}


def test_a_restart_draws_what_the_new_weights_draw_by_themselves(
    pool: GeneratorPool, policy: ActorGroup, events: EventLog
) -> None:
    path = PathConfig(name="store", timeout=60.0, bucket_bytes=1 << 18)
    channel = WeightChannel(TOKENS, bound=Bound("fp32"), path=path, events=events, restarts=True)
    wanted = requests(40, max_tokens=50)

    async def run() -> list[Finished]:
        await pool.submit(wanted)
        await channel.transfer(policy, pool, 51)
        return await gather(pool, wanted)

    update(policy)
    restarted = asyncio.run(run())
    assert all(candidate.version_runs == ((0, 51),) for candidate in restarted)
    assert texts(restarted) == texts(generate(pool, wanted))


def test_aborted_candidates_leave_the_engines_free(pool: GeneratorPool) -> None:
    wanted = requests(40, max_tokens=50)

    async def run() -> None:
        await pool.submit(wanted)
        await pool.abort({request.key for request in wanted})

    asyncio.run(run())
    assert pool.pending == 0
    assert len(generate(pool, requests(8))) == 8, "the same keys may come again"


def test_files_carry_the_same_weights(
    pool: GeneratorPool, policy: ActorGroup, events: EventLog, tmp_path: Path
) -> None:
    path = PathConfig(name="files", timeout=60.0, folder=str(tmp_path), bucket_bytes=1 << 18)
    channel = WeightChannel(TOKENS, bound=Bound("fp32"), path=path, events=events)
    update(policy)
    assert asyncio.run(channel.transfer(policy, pool, 9)).gap < 1e-4
    assert not list(tmp_path.iterdir())


def test_a_model_folder_takes_the_place_of_the_weights(pool: GeneratorPool, model: str) -> None:
    asyncio.run(load_folder(pool, model, None, 60.0))
    plain = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        logits_BTV = plain(torch.tensor(TOKENS)).logits[:, :-1]
    logprobs_BT = logits_BTV.log_softmax(-1).gather(-1, torch.tensor(TOKENS)[:, 1:, None])[:, :, 0]
    probe = Probe(0, TOKENS, tuple(map(tuple, logprobs_BT.tolist())), tolerance("fp32"))
    assert asyncio.run(prove(pool, probe, 60.0)) < 1e-4
    wrong = replace(probe, logprobs=probe.logprobs[::-1])
    with pytest.raises(WeightError):
        asyncio.run(load_folder(pool, model, wrong, 60.0))


def kill(pool: GeneratorPool) -> None:
    os.kill(pool.group.pid(pool.group.actors[0]), signal.SIGKILL)


def test_a_dead_engine_is_replaced_once_weights_are_proven(ray_session: None, model: str, events: EventLog) -> None:
    config = RolloutConfig(engine="local", engines=2, context=64, max_sequences=8, cpus=0.2)
    pool = asyncio.run(start_pool("local", model, config, CLUSTER, events))
    try:
        (_, survivor) = pool.group.actors
        kill(pool)
        texts_before = texts(generate(pool, requests(8)))
        assert pool.group.actors == [survivor]
        deadline = time.monotonic() + 300
        while len(pool.group) < 2 and time.monotonic() < deadline:
            time.sleep(0.5)
            asyncio.run(load_folder(pool, model, None, 60.0))
        assert len(pool.group) == 2
        assert texts(generate(pool, requests(8))) == texts_before
        homes = pool._homes.actors
        assert homes == set(pool.group.actors), "both engines write candidates"
    finally:
        pool.stop()


# From here on the pool loses its four engines, one after another.


def test_an_engine_that_refuses_a_bucket_is_discarded_and_the_others_get_the_weights(
    pool: GeneratorPool, policy: ActorGroup, channel: WeightChannel, model: str, tmp_path: Path
) -> None:
    update(policy)
    asyncio.run(channel.transfer(policy, pool, 10))
    (bucket,) = pack(tensors_of(policy, model, tmp_path).items(), 1 << 30)
    data = tuple(part.copy() for part in bucket.data)
    data[0][12345] ^= 1
    victim = pool.group.actors[0]
    refusal = victim.receive.remote(Header("full", 11))
    victim.accept.remote(0, [ray.put(replace(bucket, data=data))])
    with pytest.raises(WeightError, match=r"weight bucket 0 .*arrived with checksum .*send the weights again"):
        asyncio.run(pool.group.one(victim, lambda _: refusal))
    asyncio.run(channel.transfer(policy, pool, 11))
    assert victim not in pool.group.actors
    assert len(pool.group) == 3
    assert {candidate.version_runs for candidate in generate(pool, requests(3))} == {((0, 11),)}


def test_what_a_killed_engine_was_writing_is_written_by_the_others(pool: GeneratorPool) -> None:
    candidates = [
        replace(request, sampling=SamplingConfig(max_tokens=8 + 10 * (i % 6))) for i, request in enumerate(requests(48))
    ]
    undisturbed = generate(pool, candidates)

    async def disturbed() -> list[Finished]:
        work = asyncio.ensure_future(collect(pool, candidates))
        while not 0 < pool.pending < len(candidates):
            await asyncio.sleep(0.001)
        kill(pool)
        return await work

    assert texts(asyncio.run(disturbed())) == texts(undisturbed)
    assert (len(pool.group), pool.pending) == (2, 0)


def test_an_engine_found_dead_at_the_next_submit_is_discarded(pool: GeneratorPool) -> None:
    kill(pool)
    assert len(generate(pool, requests(4))) == 4
    assert len(pool.group) == 1


def test_where_all_engines_are_killed_others_write(pool: GeneratorPool, model: str) -> None:
    pool.renew = lambda: load_folder(pool, model, None, 60.0)
    survivors = list(pool.group.actors)
    for actor in survivors:
        os.kill(pool.group.pid(actor), signal.SIGKILL)
    assert len(generate(pool, requests(4))) == 4
    assert not set(survivors) & set(pool.group.actors)
