from __future__ import annotations

from rayalign.storage.report_events import events_table

EVENTS = (
    {"time": 0.0, "event": "actor_lost", "role": "reward", "reason": "reward died", "replaced": True},
    {"time": 1.0, "event": "received", "role": "policy", "bytes": 3},
    {"time": 2.0, "event": "stage_restarted", "stage": "ppo", "reason": "policy died", "left": 2},
    {"time": 3.0, "event": "rolled_back", "stage": "ppo", "reason": "kl above 1", "to": 4, "rate": 0.5, "left": 1},
)


def test_each_interruption_has_a_line() -> None:
    page = events_table(EVENTS)
    assert page.count("<tr>") == 4
    assert "lost and replaced" in page
    assert "started again; 2 more times may follow" in page
    assert "went back to 4, with other samples, learning rate times 0.5; 1 more times may follow" in page


def test_an_undisturbed_run_has_none() -> None:
    assert events_table([EVENTS[1]]) == ""
