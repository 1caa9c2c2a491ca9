from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rayalign.annotator.budget import Budget, BudgetError
from rayalign.annotator.verdicts import Usage
from rayalign.config.annotators import BudgetConfig

CALL = Usage(70, 30, 0.01)
SPENDER = """
import sys
from rayalign.annotator.budget import Budget, BudgetError
from rayalign.annotator.verdicts import Usage
from rayalign.config.annotators import BudgetConfig
budget, paid = Budget(sys.argv[1], BudgetConfig(dollars=0.5)), 0
while True:
    try:
        held = budget.reserve("judge", sys.argv[2], Usage(70, 30, 0.01))
    except BudgetError:
        break
    budget.settle(held, Usage(70, 20, 0.009))
    paid += 1
sys.stdout.write(str(paid))
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/verdicts.db"


def test_spend_is_counted_by_judge_and_by_client(url: str) -> None:
    budget = Budget(url, BudgetConfig())
    for judge, client in (("x", "ann"), ("x", "bob"), ("y", "ann")):
        budget.settle(budget.reserve(judge, client, CALL), Usage(60, 10, 0.005, 1.5))
    budget.cancel(budget.reserve("y", "bob", CALL))
    again = Budget(url, BudgetConfig())
    assert again.totals().judges == {"x": Usage(120, 20, 0.01, 3.0), "y": Usage(60, 10, 0.005, 1.5)}
    assert again.totals().clients == {"ann": Usage(120, 20, 0.01, 3.0), "bob": Usage(60, 10, 0.005, 1.5)}


def test_what_could_pass_the_limit_is_refused_with_what_is_left(url: str) -> None:
    budget = Budget(url, BudgetConfig(dollars=0.03, tokens=1000))
    budget.settle(budget.reserve("x", "ann", CALL), CALL)
    held = budget.reserve("x", "ann", CALL)
    budget.reserve("x", "bob", CALL)
    with pytest.raises(BudgetError, match=r"the budget has \$0 of \$0.03 left, and this may cost \$0.01"):
        budget.reserve("x", "bob", CALL)
    budget.settle(held, Usage(10, 10, 0.002))
    with pytest.raises(BudgetError, match=r"has \$0.008 of"):
        budget.reserve("x", "bob", CALL)
    with pytest.raises(BudgetError, match="780 of 1000 tokens left, and this may take 781"):
        budget.reserve("x", "bob", Usage(781))
    budget.reserve("x", "bob", Usage(780, 0, 0.008))


def test_a_client_has_limits_of_its_own(url: str) -> None:
    budget = Budget(url, BudgetConfig(per_client_dollars=0.02, per_client_tokens=150))
    budget.reserve("x", "ann", CALL)
    with pytest.raises(BudgetError, match="the budget of client ann has 50 of 150 tokens left"):
        budget.reserve("y", "ann", CALL)
    budget.reserve("y", "bob", CALL)


def test_a_killed_process_holds_back_its_estimate_until_the_lease_ends(url: str) -> None:
    now = [0.0]
    budget = Budget(url, BudgetConfig(tokens=150), lease=60.0, clock=lambda: now[0])
    late = budget.reserve("x", "ann", CALL)
    now[0] = 59.0
    with pytest.raises(BudgetError):
        budget.reserve("x", "ann", CALL)
    now[0] = 61.0
    budget.cancel(budget.reserve("x", "ann", CALL))
    budget.settle(late, CALL)
    with pytest.raises(BudgetError, match="50 of 150"):
        budget.reserve("x", "ann", CALL)


def test_threads_never_pass_the_limit(url: str) -> None:
    budget = Budget(url, BudgetConfig(tokens=2050))

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
    paid = [int(process.communicate(timeout=60)[0]) for process in started]
    spent = Budget(url, BudgetConfig()).totals().judges["judge"].price
    assert spent == pytest.approx(0.009 * sum(paid))
    # each stops where its next call could pass the limit, with at most two others' calls held back
    assert 0.5 - 3 * 0.01 <= spent <= 0.5
