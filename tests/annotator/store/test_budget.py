from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from rayalign.annotator.judges.verdicts import Usage
from rayalign.annotator.store.account import Account
from rayalign.annotator.store.budget import Budget, BudgetError, BusyError
from rayalign.annotator.store.database import Database
from rayalign.config.annotators import BudgetConfig
from rayalign.errors import DeadlineError, RayalignError

CALL = Usage(70, 30, 0.01)
SPENDER = """
import sys
from rayalign.annotator.store.budget import Budget, BudgetError
from rayalign.annotator.store.database import Database
from rayalign.annotator.judges.verdicts import Usage
from rayalign.config.annotators import BudgetConfig
budget, paid = Budget(Database(sys.argv[1]), BudgetConfig(dollars=0.5)), 0
while True:
    try:
        held = budget.reserve("judge", sys.argv[2], Usage(70, 30, 0.01))
    except BudgetError:
        break
    budget.settle(held, Usage(70, 20, 0.009))
    paid += 1
sys.stdout.write(str(paid))
"""


def test_spend_is_counted_by_judge_and_by_client(url: str) -> None:
    budget = Budget(Database(url), BudgetConfig())
    for judge, client in (("x", "ann"), ("x", "bob"), ("y", "ann")):
        budget.settle(budget.reserve(judge, client, CALL), Usage(60, 10, 0.005, 1.5))
    budget.settle(budget.reserve("y", "bob", CALL), Usage())
    again = Budget(Database(url), BudgetConfig())
    assert again.totals().judges == {"x": Usage(120, 20, 0.01, 3.0), "y": Usage(60, 10, 0.005, 1.5)}
    assert again.totals().clients == {"ann": Usage(120, 20, 0.01, 3.0), "bob": Usage(60, 10, 0.005, 1.5)}


def test_what_could_pass_the_limit_is_refused_with_what_is_left(url: str) -> None:
    budget = Budget(Database(url), BudgetConfig(dollars=0.03, tokens=1000))
    budget.settle(budget.reserve("x", "ann", CALL), CALL)
    held = budget.reserve("x", "ann", CALL)
    budget.reserve("x", "bob", CALL)
    with pytest.raises(
        BusyError, match=r"\$0.02 of \$0.03 left, and this may cost \$0.01; .* in flight hold back \$0.02"
    ):
        budget.reserve("x", "bob", CALL)
    budget.settle(held, Usage(10, 10, 0.002))
    with pytest.raises(BusyError, match=r"has \$0.018 of"):
        budget.reserve("x", "bob", CALL)
    with pytest.raises(BusyError, match="880 tokens of 1000 tokens left, and this may cost 781 tokens"):
        budget.reserve("x", "bob", Usage(781))
    with pytest.raises(BudgetError, match="may cost 881 tokens; nothing was sent: raise the limit"):
        budget.reserve("x", "bob", Usage(881))
    budget.reserve("x", "bob", Usage(780, 0, 0.008))


def test_a_request_waits_for_those_in_flight_and_nothing_waits_for_it(url: str) -> None:
    budget = Budget(Database(url), BudgetConfig(tokens=150))
    first = budget.reserve("x", "ann", CALL)

    async def wait() -> None:
        second = asyncio.create_task(budget.hold("x", "bob", CALL, 30.0, 60.0))
        for _ in range(20):
            await asyncio.sleep(0.005)
            assert not second.done()
        budget.settle(first, Usage(40, 10))
        budget.settle(await second, CALL)
        with pytest.raises(BudgetError, match="0 tokens of 150 tokens left"):
            await budget.hold("x", "bob", CALL, 30.0, 60.0)  # refused at once: it can never fit

    asyncio.run(asyncio.wait_for(wait(), 60.0))


def test_the_wait_ends_with_its_time(url: str) -> None:
    budget = Budget(Database(url), BudgetConfig(tokens=150))
    budget.reserve("x", "ann", CALL)
    with pytest.raises(BusyError, match="in flight hold back 100 tokens"):
        asyncio.run(budget.hold("x", "ann", CALL, 0.05, 60.0))


def test_a_client_has_limits_of_its_own(url: str) -> None:
    budget = Budget(Database(url), BudgetConfig(per_client_dollars=0.02, per_client_tokens=150))
    budget.reserve("x", "ann", CALL)
    with pytest.raises(
        BudgetError, match="the budget of client ann has 150 tokens of 150 tokens left, and this may cost 100 tokens"
    ):
        budget.reserve("y", "ann", CALL)
    budget.reserve("y", "bob", CALL)


def test_what_a_killed_process_held_back_is_spent_for_good(url: str) -> None:
    now = [0.0]
    budget = Budget(Database(url), BudgetConfig(tokens=250), clock=lambda: now[0])
    late = budget.reserve("x", "ann", CALL)
    budget.reserve("x", "ann", CALL)
    now[0] = 59.0
    with pytest.raises(BusyError):
        budget.reserve("x", "ann", CALL)
    now[0] = 1e9
    budget = Budget(Database(url), BudgetConfig(tokens=250), clock=lambda: now[0])
    with pytest.raises(BudgetError, match="has 50 tokens of 250 tokens left"):
        asyncio.run(budget.hold("x", "ann", CALL, 30.0, 60.0))
    budget.settle(late, Usage(40, 10))  # it was only slow: the rest of its hold is free again
    budget.settle(budget.reserve("x", "ann", CALL), CALL)
    with pytest.raises(BudgetError, match="has 0 tokens of 250 tokens left"):
        budget.reserve("x", "ann", Usage(1))


def test_an_account_settles_the_bill_whatever_happens(url: str) -> None:
    budget = Budget(Database(url), BudgetConfig(tokens=100))
    account = Account(budget, "x", "ann")

    async def ask(cost: Usage, error: type[Exception] | None) -> None:
        with suppress(ZeroDivisionError):
            async with account.paying(CALL, 0.0, 60.0) as bill:
                bill.cost = cost
                if error is not None:
                    raise error

    asyncio.run(ask(Usage(), ZeroDivisionError))
    asyncio.run(ask(Usage(5, 5), ZeroDivisionError))
    assert budget.totals().judges == {"x": Usage(5, 5)} and account.refused is None
    with pytest.raises(BudgetError) as refused:
        asyncio.run(ask(Usage(), None))
    assert account.refused is refused.value


def test_what_was_paid_is_settled_once_though_the_database_is_away_for_a_moment(url: str) -> None:
    budget, database = Budget(Database(url), BudgetConfig(tokens=150)), Database(url)
    account = Account(budget, "x", "ann")

    def rename(before: str, after: str) -> None:
        with database.writing() as connection:
            connection.exec_driver_sql(f"ALTER TABLE {before} RENAME TO {after}")

    async def ask() -> None:
        async with account.paying(CALL, 0.0, 60.0) as bill:
            bill.cost = CALL
            rename("spend", "away")
            asyncio.get_running_loop().call_later(0.05, rename, "away", "spend")
        assert account.refused is None
        rename("reservation", "away")
        with pytest.raises(RayalignError, match="annotator cache"):
            await account.paying(Usage(1), 0.0, 60.0).__aenter__()
        assert account.refused is not None, "told once what was paid for beside it is kept"
        rename("away", "reservation")

    asyncio.run(ask())
    held = budget.reserve("x", "ann", Usage(50))
    for _ in range(2):  # the first answer of the database may have been lost
        budget.settle(held, Usage(10))
    assert budget.totals().judges["x"].prompt_tokens == 80


def test_a_database_that_hangs_keeps_nobody_longer_than_the_deadline_and_nothing_held_back(url: str) -> None:
    database, other = Database(url, patience=0.2), Database(url)
    budget, written = Budget(database, BudgetConfig(tokens=20)), list[int]()

    def write() -> None:
        with database.writing():
            written.append(1)

    async def ask() -> None:
        with other.writing():
            late, gone = (asyncio.create_task(budget.hold("x", "ann", Usage(10), 0.0, 60.0)) for _ in range(2))
            await asyncio.sleep(0.01)
            gone.cancel()
            with pytest.raises(DeadlineError, match=r"no answer in 0\.2 s"):
                await database.insist(write)
            with pytest.raises(DeadlineError):
                await late
            assert gone.cancelled()
        while not written:
            await asyncio.sleep(0.01)
        await Budget(other, BudgetConfig(tokens=20)).hold("x", "ann", Usage(20), 30.0, 60.0)

    asyncio.run(asyncio.wait_for(ask(), 120.0))
    assert written == [1], "what may still come to pass is not done again"


def test_threads_never_pass_the_limit(url: str) -> None:
    budget = Budget(Database(url), BudgetConfig(tokens=2050))

    def spend(client: int) -> int:
        paid = 0
        try:
            while True:
                budget.settle(budget.reserve("x", f"c{client}", CALL), CALL)
                paid += 1
        except BudgetError:
            return paid

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(spend, range(6))) == 20
    assert budget.totals().judges["x"].prompt_tokens == 20 * 70


def test_processes_never_pass_the_limit(url: str) -> None:
    started = [
        subprocess.Popen([sys.executable, "-c", SPENDER, url, f"c{i}"], stdout=subprocess.PIPE, text=True)
        for i in range(3)
    ]
    paid = [int(process.communicate(timeout=300)[0]) for process in started]
    spent = Budget(Database(url), BudgetConfig()).totals().judges["judge"].price
    assert spent == pytest.approx(0.009 * sum(paid))
    # each stops where its next call could pass the limit, with at most two others' calls held back
    assert 0.5 - 3 * 0.01 <= spent <= 0.5
