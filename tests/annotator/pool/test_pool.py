from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from rayalign.annotator.asking.api import (
    Annotation,
    Estimate,
    PairItem,
    PreferenceRequest,
    RankItem,
    RankRequest,
    ScoreItem,
    ScoreRequest,
)
from rayalign.annotator.asking.connect import LocalAnnotator, announce
from rayalign.annotator.asking.estimates import estimate
from rayalign.annotator.endpoints.language_model import Completion, CompletionError
from rayalign.annotator.endpoints.openai_client import OpenAIModel
from rayalign.annotator.judges.prompted import LLMJudge
from rayalign.annotator.judges.verdicts import Pair, Paying, Usage, Verdict
from rayalign.annotator.pool.annotator import PoolAnnotator
from rayalign.annotator.pool.pool import Pool
from rayalign.annotator.pool.ranking import rank, score
from rayalign.annotator.store.budget import Budget, BudgetError
from rayalign.annotator.store.database import Database
from rayalign.annotator.store.verdict_store import VerdictStore, key
from rayalign.config import BudgetConfig, LLMJudgeConfig
from rayalign.errors import InputError
from tests.annotator.fakes import FakeJudge
from tests.annotator.stub_endpoint import Stub


class Slow(Database):
    """Answers nothing before the event loop has gone on to something else."""

    loop: asyncio.AbstractEventLoop | None = None
    calls = 0

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        self._wait()
        with super().reading() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        self._wait()
        with super().writing() as connection:
            yield connection

    def _wait(self) -> None:
        if self.loop is not None:
            went_on = threading.Event()
            self.loop.call_soon_threadsafe(went_on.set)
            assert went_on.wait(60.0), "the event loop waits for the database"
            self.calls += 1


def pool_of(
    folder: Path, *annotators: PoolAnnotator, budget: BudgetConfig | None = None, database: Database | None = None
) -> Pool:
    database = database or Database(f"sqlite:///{folder / 'verdicts.db'}")
    store, spent = VerdictStore(database), Budget(database, budget or BudgetConfig())
    return Pool(annotators, store, spent, chunk=3, timeout=60.0)


def paid(judge: FakeJudge, name: str = "judge") -> PoolAnnotator:
    return PoolAnnotator(
        name, "llm", judge, estimate=lambda pairs: Usage(100 * len(pairs), 10 * len(pairs), 0.5 * len(pairs))
    )


def rows(count: int) -> tuple[PairItem, ...]:
    return tuple(
        PairItem(instruction=f"question {i}", output_1="short", output_2="longer answer") for i in range(count)
    )


def annotate(pool: Pool, request: PreferenceRequest, client: str = "") -> list[Annotation]:
    async def gather() -> list[Annotation]:
        return sorted([a async for a in pool.annotate(request, client)], key=lambda a: a.index)

    return asyncio.run(gather())


def test_each_pair_gets_one_annotation_in_the_order_of_its_answers(tmp_path: Path) -> None:
    judge = FakeJudge()
    pool = pool_of(tmp_path, PoolAnnotator("length", "fake", judge, randomize_order=True))
    pairs = tuple(PairItem(id=str(i), instruction=f"question {i}", output_1="a", output_2="bbb") for i in range(20))
    found = annotate(pool, PreferenceRequest(annotator="length", pairs=pairs))
    assert [a.id for a in found] == [str(i) for i in range(20)]
    assert {a.preference for a in found} == {2.0}
    first_shown = {question.id: first for question, first, _ in judge.asked}
    for annotation, pair in zip(found, pairs, strict=True):
        assert annotation.switched == (first_shown[pair.instruction] == "bbb")
    shown_first = Counter(first for _, first, _ in judge.asked)
    assert shown_first["a"] > 2 and shown_first["bbb"] > 2, "the order that the judge sees is drawn"


def test_a_second_run_asks_no_judge(tmp_path: Path) -> None:
    judge = FakeJudge()
    request = PreferenceRequest(annotator="judge", pairs=rows(7))
    first = annotate(pool_of(tmp_path, paid(judge)), request)
    asked = len(judge.asked)
    again = annotate(pool_of(tmp_path, paid(judge)), request)
    assert len(judge.asked) == asked == 7
    assert all(a.cached for a in again) and not any(a.cached for a in first)
    assert [a.preference for a in again] == [a.preference for a in first]


def test_failures_are_absent_with_their_reason_and_asked_again(tmp_path: Path) -> None:
    judge = FakeJudge()
    pool = pool_of(tmp_path, paid(judge))
    request = PreferenceRequest(annotator="judge", pairs=(PairItem(instruction="broken", output_1="a", output_2="b"),))
    for _ in range(2):
        (found,) = annotate(pool, request)
        assert found.preference is None and found.reason == "the judge broke" and not found.cached
    assert len(judge.asked) == 2


def test_equal_answers_tie_and_noise_asks_nobody(tmp_path: Path) -> None:
    judge = FakeJudge(preference=1.0)
    pool = pool_of(tmp_path, PoolAnnotator("judge", "fake", judge))
    same = PairItem(instruction="question", output_1="a", output_2="a")
    (tie,) = annotate(pool, PreferenceRequest(annotator="judge", pairs=(same,)))
    assert tie.preference == 1.5 and not judge.asked
    found = annotate(pool, PreferenceRequest(annotator="judge", pairs=rows(400), flip=0.25))
    noise = [a for a in found if a.noise]
    assert len(judge.asked) == 400 - len(noise)
    assert 160 < len(noise) < 240, "twice the flip is drawn at random, half of it wrong"
    assert 60 < sum(a.preference == 2.0 for a in found) < 140


def test_both_orders_make_a_tie_of_a_judge_that_looks_at_places_only(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, PoolAnnotator("first", "fake", FakeJudge(preference=1.0)))
    found = annotate(pool, PreferenceRequest(annotator="first", pairs=rows(4), both_orders=True))
    assert [(a.preference, a.consistent, a.first_shown) for a in found] == [(1.5, False, 1.0)] * 4
    fair = pool_of(tmp_path / "fair", PoolAnnotator("fair", "fake", FakeJudge()))
    found = annotate(fair, PreferenceRequest(annotator="fair", pairs=rows(4), both_orders=True))
    assert [(a.preference, a.consistent, a.first_shown) for a in found] == [(2.0, True, 0.5)] * 4


def test_the_pool_draws_one_annotator_for_each_instruction(tmp_path: Path) -> None:
    annotators = [PoolAnnotator(name, "fake", FakeJudge()) for name in ("anna", "bert", "cleo")]
    pool = pool_of(tmp_path, *annotators, PoolAnnotator("apart", "fake", FakeJudge(), pooled=False))
    drawn = Counter(a.annotator for a in annotate(pool, PreferenceRequest(pairs=rows(90))))
    assert set(drawn) == {"anna", "bert", "cleo"} and min(drawn.values()) > 15


def test_concurrent_requests_pay_once(tmp_path: Path) -> None:
    judge = FakeJudge(seconds=0.05, price=0.5)
    one, other = pool_of(tmp_path, paid(judge)), pool_of(tmp_path, paid(judge))

    async def both() -> list[list[Annotation]]:
        async def ask(pool: Pool) -> list[Annotation]:
            return [a async for a in pool.annotate(PreferenceRequest(annotator="judge", pairs=rows(12)))]

        return await asyncio.gather(*(ask(pool) for pool in (one, other, one)))

    found = asyncio.run(both())
    assert [len(f) for f in found] == [12, 12, 12]
    assert len(judge.asked) == 12
    assert one.totals()["judge"].price == pytest.approx(6.0)


def test_each_verdict_is_charged_to_one_annotation(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, paid(FakeJudge(price=1.0)))
    alone = PreferenceRequest(annotator="judge", pairs=rows(1))
    assert [a.paid for a in annotate(pool, alone)] == [1.0]
    both = alone.model_copy(update={"both_orders": True, "pairs": rows(1) * 2})
    assert [(a.paid, a.price, a.cached) for a in annotate(pool, both)] == [(1.0, 2.0, False), (0.0, 2.0, True)]
    apart = both.model_copy(update={"pairs": rows(6)[1:] + rows(6)[1:]})  # equal rows in two chunks
    assert sum(a.paid for a in annotate(pool, apart)) == 10.0
    assert pool.totals()["judge"].price == 12.0


def test_a_caller_that_leaves_does_not_lose_what_is_being_paid_for(tmp_path: Path) -> None:
    judge = FakeJudge(seconds=0.1)
    pool = pool_of(tmp_path, paid(judge))
    request = PreferenceRequest(annotator="judge", pairs=rows(1))

    async def leave() -> None:
        async def ask() -> list[Annotation]:
            return [a async for a in pool.annotate(request)]

        asking = asyncio.create_task(ask())
        while not judge.asked:
            await asyncio.sleep(0.005)
        asking.cancel()
        assert isinstance((await asyncio.gather(asking, return_exceptions=True))[0], asyncio.CancelledError)
        await pool.drain()

    asyncio.run(leave())
    (found,) = annotate(pool, request)
    assert found.cached and len(judge.asked) == 1


def test_claims_stay_while_their_renewal_hangs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    database, judge = Database(f"sqlite:///{tmp_path / 'verdicts.db'}"), FakeJudge(seconds=600.0)
    pool = pool_of(tmp_path, paid(judge), database=database)
    (item,) = rows(1)

    async def ask() -> set[str]:
        asking = asyncio.create_task(anext(pool.annotate(PreferenceRequest(annotator="judge", pairs=(item,)))))
        while not judge.asked:
            await asyncio.sleep(0.01)
        with Database(f"sqlite:///{tmp_path / 'verdicts.db'}").writing():
            database._patience, patience = 0.1, database._patience
            while "could not be renewed" not in caplog.text:
                await asyncio.sleep(0.05)
            database._patience = patience  # so that only what is to hang comes too late
        for _ in range(2):  # the late renewal, and what comes of it
            await database.aside(lambda: None, writes=True)
        asking.cancel()
        return VerdictStore(database).claim([key("fake", (item.prompt, item.output_1, item.output_2), 0)], "other", 1.0)

    assert asyncio.run(asyncio.wait_for(ask(), 60.0)) == set()


def test_a_verdict_is_kept_though_the_database_is_away_for_a_moment(tmp_path: Path) -> None:
    request = PreferenceRequest(annotator="judge", pairs=rows(1))

    def rename(before: str, after: str) -> None:
        with Database(f"sqlite:///{tmp_path / 'verdicts.db'}").writing() as connection:
            connection.exec_driver_sql(f"ALTER TABLE {before} RENAME TO {after}")

    class Unlucky(FakeJudge):
        """The database goes away while it judges."""

        async def _judged(self, pairs: Sequence[Pair]) -> list[Verdict]:
            rename("verdict", "away")
            asyncio.get_running_loop().call_later(0.1, rename, "away", "verdict")
            return await super()._judged(pairs)

    assert annotate(pool_of(tmp_path, paid(Unlucky(price=0.5))), request)[0].preference == 2.0
    assert annotate(pool_of(tmp_path, paid(FakeJudge())), request)[0].cached


def test_a_budget_stops_before_it_is_passed(tmp_path: Path) -> None:
    judge = FakeJudge(price=0.5)
    pool = pool_of(tmp_path, paid(judge), budget=BudgetConfig(dollars=2.0))
    annotate(pool, PreferenceRequest(annotator="judge", pairs=rows(4)))
    with pytest.raises(BudgetError, match="nothing was sent"):
        annotate(pool, PreferenceRequest(annotator="judge", pairs=rows(5)))
    assert len(judge.asked) == 4
    assert len(annotate(pool, PreferenceRequest(annotator="judge", pairs=rows(4)))) == 4, "the cache costs nothing"


class CostlyModel:
    """Every answer costs 100 tokens."""

    origin: Mapping[str, str] = {}

    def __init__(self) -> None:
        self.sent = 0

    async def complete(self, prompt: object, arguments: object, paying: Paying) -> Completion:
        try:
            async with paying(Usage(100), 30.0, 60.0) as bill:
                bill.cost = Usage(100)
                await asyncio.sleep(0)
                self.sent += 1
                return Completion("Output (a)", usage=bill.cost)
        except BudgetError as error:
            raise CompletionError(str(error)) from None


def test_what_was_paid_beside_a_refused_request_is_kept(tmp_path: Path) -> None:
    model = CostlyModel()
    annotator = PoolAnnotator(
        "m", "llm", LLMJudge(LLMJudgeConfig(kind="llm", model="m"), model), estimate=lambda _: Usage()
    )
    request = PreferenceRequest(annotator="m", pairs=rows(1), both_orders=True)
    with pytest.raises(BudgetError, match="0 tokens of 100 tokens left"):
        annotate(pool_of(tmp_path, annotator, budget=BudgetConfig(tokens=100)), request)
    assert model.sent == 1
    (found,) = annotate(pool_of(tmp_path, annotator, budget=BudgetConfig(tokens=200)), request)
    assert found.preference == 1.5 and model.sent == 2


def test_nothing_else_waits_for_the_database(tmp_path: Path) -> None:
    database = Slow(f"sqlite:///{tmp_path / 'verdicts.db'}")
    pool = pool_of(tmp_path, paid(FakeJudge(price=0.1)), budget=BudgetConfig(tokens=10_000), database=database)
    request = PreferenceRequest(annotator="judge", pairs=rows(2))

    async def ask() -> None:
        database.loop = asyncio.get_running_loop()
        assert [a.cached for _ in range(2) async for a in pool.annotate(request)] == [False, False, True, True]
        assert await pool.database.aside(pool.ready)
        assert (await pool.database.aside(pool.totals))["judge"].prompt_tokens == 20
        assert (await pool.database.aside(partial(estimate, pool, request))).tokens_left == 10_000 - 22

    asyncio.run(ask())
    assert database.calls >= 10, "a claim is renewed where the machine stands still"


def test_a_client_whose_budget_is_held_back_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_KEY", "some-key")
    limit = BudgetConfig(per_client_tokens=100_000)
    budget = Budget(Database(f"sqlite:///{tmp_path / 'verdicts.db'}"), limit)
    held = budget.reserve("m", "ann", Usage(100_000))

    async def ask(pool: Pool, client: str, pairs: tuple[PairItem, ...]) -> list[float | None]:
        request = PreferenceRequest(annotator="m", pairs=pairs)
        return [a.preference async for a in pool.annotate(request, client)]

    async def both(url: str) -> None:
        config = LLMJudgeConfig(kind="llm", model="m", base_url=url, key_variable="STUB_KEY", concurrency=1)
        judge = LLMJudge(config, OpenAIModel(config))
        pool = pool_of(tmp_path, PoolAnnotator("m", "llm", judge, estimate=judge.estimate), budget=limit)
        waiting = asyncio.create_task(ask(pool, "ann", rows(100)[1:]))
        await asyncio.sleep(0.05)
        assert await asyncio.wait_for(ask(pool, "bob", rows(1)), 30.0) == [2.0]
        assert not waiting.done()
        budget.settle(held, Usage())
        assert await waiting == [2.0] * 99

    with Stub() as stub:
        asyncio.run(both(stub.url))


def test_the_estimate_counts_what_the_cache_lacks(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, paid(FakeJudge()))
    annotate(pool, PreferenceRequest(annotator="judge", pairs=rows(2)))
    found = estimate(pool, PreferenceRequest(annotator="judge", pairs=rows(5)))
    assert (found.verdicts, found.prompt_tokens, found.completion_tokens, found.price) == (3, 300, 30, 1.5)
    assert estimate(pool, PreferenceRequest(annotator="judge", pairs=rows(5), both_orders=True)).verdicts == 8


def test_the_estimate_leaves_out_label_noise_and_tells_what_is_left(tmp_path: Path) -> None:
    budget = BudgetConfig(dollars=500.0, per_client_dollars=200.0, tokens=50_000)
    judge = FakeJudge(price=0.5)
    pool = pool_of(tmp_path, paid(judge), budget=budget)
    request = PreferenceRequest(annotator="judge", pairs=rows(400), flip=0.25, seed=3)
    before = estimate(pool, request, "ann")
    assert (before.dollars_left, before.tokens_left) == (200.0, 50_000)
    annotate(pool, request, "ann")
    assert before.verdicts == len(judge.asked) < 300
    after = estimate(pool, request, "ann")
    assert after.verdicts == 0 and after.tokens_left == 50_000 - 11 * len(judge.asked)
    assert after.dollars_left == pytest.approx(200.0 - 0.5 * len(judge.asked))
    assert estimate(pool, request, "bob").dollars_left == pytest.approx(200.0)
    told: list[str] = []
    annotator = Known([before + after.model_copy(update={"dollars_left": 1.0})])
    with pytest.raises(InputError, match=r"at least \$.* and the budget has \$1 left; nothing was sent"):
        announce(annotator, (), told.append)
    assert told == [str(annotator.found[0])]


def test_the_estimate_of_a_job_counts_equal_pairs_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_KEY", "some-key")
    file = tmp_path / "pool.yaml"
    judge = "{kind: llm, model: m, key_variable: STUB_KEY}"
    file.write_text(f"cache: sqlite:///{tmp_path / 'v.db'}\nannotators: {{m: {{judge: {judge}}}}}\n")
    annotator = LocalAnnotator(file, "m")
    found = annotator.estimate(rows(1) * 1025)
    annotator.close()
    assert (found.pairs, found.verdicts) == (1025, 1)


class Known:
    """An annotator of which estimates alone are asked."""

    def __init__(self, found: list[Estimate]) -> None:
        self.found = found

    def estimate(self, rows: object, **options: object) -> Estimate:
        return self.found[0]


def test_an_unknown_annotator_is_refused_with_the_nearest(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, PoolAnnotator("gold", "fake", FakeJudge()))
    with pytest.raises(InputError, match="did you mean gold"):
        annotate(pool, PreferenceRequest(annotator="golt", pairs=rows(1)))


def test_scores_and_rankings(tmp_path: Path) -> None:
    judge = FakeJudge()
    pool = pool_of(
        tmp_path, PoolAnnotator("scorer", "fake", judge, scoring=judge), PoolAnnotator("only", "fake", judge)
    )
    items = (ScoreItem(instruction="q", output="four"), ScoreItem(instruction="q", output=""))
    found = asyncio.run(score(pool, ScoreRequest(annotator="scorer", items=items)))
    assert [(f.score, f.reason) for f in found] == [(4.0, None), (None, "empty")]
    with pytest.raises(InputError, match="those that score: scorer"):
        asyncio.run(score(pool, ScoreRequest(annotator="only", items=items)))
    lists = (RankItem(instruction="q", outputs=("aa", "a", "aaa")),)
    for name, scores in (("scorer", (2.0, 1.0, 3.0)), ("only", (0.5, 0.0, 1.0))):
        (ranking,) = asyncio.run(rank(pool, RankRequest(annotator=name, items=lists), ""))
        assert ranking.order == (2, 0, 1) and ranking.scores == scores
