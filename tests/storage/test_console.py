from __future__ import annotations

import io

from rich.console import Console

from rayalign.storage.console import ConsoleSink, Later, duration


def test_console_without_a_terminal_prints_a_line_now_and_then() -> None:
    times = iter([0.0, 1.0, 6.0, 7.0, 8.0])
    out = io.StringIO()
    sink = ConsoleSink(
        "ppo", 10, Console(file=out, force_terminal=False, width=60), every=5.0, clock=lambda: next(times)
    )
    for step in range(1, 5):
        sink.write(step, {"reward/mean": step / 10, "phase/generate": 2.0, "phase/score": 1.0, "phase/total": 3.0})
    sink.close()
    first, second, last = out.getvalue().splitlines()
    assert first == "ppo  1/10  reward 0.100  mostly generate (2.0 s)"
    # two steps took 6 s, so that the 7 to come take 21
    assert second == "ppo  3/10  reward 0.300  mostly generate (2.0 s)  0:21 left"
    assert last.startswith("ppo  4/10  reward 0.400")


def test_no_time_is_left_past_the_estimate() -> None:
    out, times = io.StringIO(), iter([0.0, 6.0, 12.0])
    sink = ConsoleSink("rm", 2, Console(file=out, force_terminal=False), every=5.0, clock=lambda: next(times))
    for step in range(1, 4):
        sink.write(step, {"phase/update": 1.0})
    assert out.getvalue().splitlines()[-1] == "rm  3/2"


def test_console_with_a_terminal_shows_the_step() -> None:
    out = io.StringIO()
    sink = ConsoleSink("ppo", None, Console(file=out, force_terminal=True, width=100), clock=lambda: 0.0)
    sink.write(7, {"kl/reference": 0.5, "rollout/tokens_per_second": 1234.5})
    sink.close()
    assert "ppo  7  KL 0.5000  1234 tokens/s" in out.getvalue()


def test_an_offline_stage_shows_loss_and_learning_rate_and_the_time_left_of_the_run() -> None:
    out, times = io.StringIO(), iter([0.0, 30.0])
    later = Later(600.0)
    sink = ConsoleSink("rm", 5, Console(file=out), later=later, every=0.0, clock=lambda: next(times))
    for step in (1, 2):
        sink.write(step, {"loss/reward": 0.7 / step, "learner/learning_rate": 2e-5, "phase/update": 0.5})
    first, second = out.getvalue().splitlines()
    assert first == "rm  1/5  loss 0.7000  learning rate 2e-05"
    # three steps of 30 s are left, and 600 s of later stages
    assert second == "rm  2/5  loss 0.3500  learning rate 2e-05  1:30 left, of the run 11:30"


def test_a_run_with_a_stage_of_unknown_length_takes_longer() -> None:
    assert Later(60.0, is_whole=False).total(30.0) == "over 1:30"
    assert duration(3661.2) == "1:01:01" and duration(0.0) == "0:00"
