from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from rayalign.annotator.asking.api import Annotation, PairItem
from rayalign.annotator.store import label_figures
from rayalign.annotator.store import labels as labels_module
from rayalign.annotator.store.label_figures import agreement, leaderboard
from rayalign.annotator.store.labels import Label, LabelStore
from rayalign.annotator.web.errors import answer_errors
from rayalign.annotator.web.labelling import labelling_router
from rayalign.errors import InputError


def rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "instruction": f"question {i}",
            "output_1": f"good {i}",
            "output_2": f"bad {i}",
            "meta": {"generator_1": "tuned", "generator_2": "base"},
        }
        for i in range(count)
    ]


async def annotate(items: Sequence[PairItem], name: str) -> list[Annotation]:
    """`gold` prefers the good answer, `silent` never says a word."""
    silent = name == "silent"
    return [
        Annotation(index=i, annotator=name, preference=None if silent else 1.0, reason="no idea" if silent else None)
        for i in range(len(items))
    ]


@pytest.fixture
def store(url: str) -> Iterator[LabelStore]:
    opened = LabelStore(url)
    yield opened
    opened.close()


@pytest.fixture
def client(store: LabelStore) -> TestClient:
    app = FastAPI()
    answer_errors(app)
    app.include_router(labelling_router(store, annotate, lambda: ["gold", "silent"], label_figures))
    return TestClient(app)


def label_all(client: TestClient, labeller: str, wanted: str = "good", limit: int = 1000) -> list[str]:
    """Prefers the wanted answer wherever it is shown, and returns the questions in the order of labelling."""
    seen = []
    while (
        len(seen) < limit and (reply := client.get("/v1/label/next", params={"labeller": labeller})).status_code == 200
    ):
        shown = reply.json()
        seen.append(shown["instruction"])
        preference = 1 if shown["answers"][0].startswith(wanted) else 2
        verdict = {"labeller": labeller, "pair": shown["pair"], "preference": preference}
        assert client.post("/v1/label/verdicts", json=verdict).status_code == 200
    return seen


def test_pairs_are_added_once(client: TestClient) -> None:
    assert client.post("/v1/label/pairs", json={"pairs": rows(3)}).json() == {
        "queue": "default",
        "added": 3,
        "pairs": 3,
    }
    renamed = [{**row, "id": f"other-{i}"} for i, row in enumerate(rows(4))]
    assert client.post("/v1/label/pairs", json={"pairs": renamed + renamed}).json()["added"] == 1
    assert client.post("/v1/label/pairs", json={"queue": "second", "pairs": rows(2)}).json()["added"] == 2


def test_a_labeller_sees_answers_but_no_sources(client: TestClient) -> None:
    client.post("/v1/label/pairs", json={"pairs": rows(1)})
    shown = client.get("/v1/label/next", params={"labeller": "ann"})
    assert shown.json().keys() == {"queue", "pair", "instruction", "answers", "labelled", "pairs"}
    assert "tuned" not in shown.text and "base" not in shown.text


def test_each_labeller_has_an_order_of_their_own_that_outlives_a_break(client: TestClient) -> None:
    client.post("/v1/label/pairs", json={"pairs": rows(12)})
    first = label_all(client, "ann", limit=5)
    again = client.get("/v1/label/next", params={"labeller": "ann"}).json()
    assert again == client.get("/v1/label/next", params={"labeller": "ann"}).json()
    assert (again["labelled"], again["pairs"]) == (5, 12)
    ann, bob = first + label_all(client, "ann"), label_all(client, "bob")
    assert len(ann) == 12 and sorted(ann) == sorted(bob) and ann != bob
    assert client.get("/v1/label/next", params={"labeller": "ann"}).status_code == 204


def test_verdicts_are_stored_in_the_order_of_the_upload(client: TestClient) -> None:
    client.post("/v1/label/pairs", json={"pairs": rows(24)})
    sides = set()
    for _ in range(24):
        shown = client.get("/v1/label/next", params={"labeller": "ann"}).json()
        side = 1 if shown["answers"][0].startswith("good") else 2
        sides.add(side)
        client.post("/v1/label/verdicts", json={"labeller": "ann", "pair": shown["pair"], "preference": side})
    exported = client.get("/v1/label/export").json()
    assert sides == {1, 2}
    assert [row["preference"] for row in exported] == [1.0] * 24
    kept = {key: exported[0][key] for key in ("input", "generator_1", "generator_2", "annotator", "annotator_kind")}
    assert kept == {
        "input": "", "generator_1": "tuned", "generator_2": "base", "annotator": "ann", "annotator_kind": "human"
    }  # fmt: skip


def test_the_last_verdict_counts_and_undo_brings_the_one_before_back(client: TestClient) -> None:
    client.post("/v1/label/pairs", json={"pairs": rows(1)})
    pair = client.get("/v1/label/next", params={"labeller": "ann"}).json()["pair"]
    for preference in (1.5, None):
        client.post("/v1/label/verdicts", json={"labeller": "ann", "pair": pair, "preference": preference})
    assert [row["preference"] for row in client.get("/v1/label/export").json()] == [None]
    back = client.post("/v1/label/undo", json={"labeller": "ann"})
    assert (back.status_code, back.json()["pair"], back.json()["labelled"]) == (200, pair, 1)
    assert [row["preference"] for row in client.get("/v1/label/export").json()] == [1.5]
    assert client.post("/v1/label/undo", json={"labeller": "ann"}).json()["labelled"] == 0
    assert client.get("/v1/label/export").json() == []
    assert client.post("/v1/label/undo", json={"labeller": "ann"}).status_code == 204


def test_progress_counts_people_and_annotators_apart(client: TestClient) -> None:
    client.post("/v1/label/pairs", json={"pairs": rows(70)})
    label_all(client, "ann", limit=2)
    asked = client.post("/v1/label/annotate", json={"annotator": "gold"}).json()
    assert asked == {"verdicts": 64, "absent": 0, "reason": None, "next": 64}
    asked = client.post("/v1/label/annotate", json={"annotator": "gold", "after": 64}).json()
    assert asked == {"verdicts": 6, "absent": 0, "reason": None, "next": None}
    asked = client.post("/v1/label/annotate", json={"annotator": "silent"}).json()
    assert (asked["verdicts"], asked["absent"], asked["reason"]) == (0, 64, "no idea")
    assert client.get("/v1/label/progress").json() == [
        {"queue": "default", "pairs": 70, "humans": {"ann": 2}, "annotators": {"gold": 70}}
    ]


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("verdicts", {"labeller": "ann", "pair": "0" * 64, "preference": 1}, 404, "unknown_pair"),
        ("verdicts", {"labeller": "gold", "pair": "0" * 64, "preference": 1}, 409, "another name"),
        ("verdicts", {"labeller": "ann", "pair": "0" * 64, "preference": 3}, 422, "a tie"),
        ("verdicts", {"labeller": "ann", "pair": "0" * 64, "preference": True}, 422, "preference"),
        ("verdicts", {"labeller": "ann", "pair": "0" * 64, "preference": "1"}, 422, "preference"),
        ("verdicts", {"labeller": "ann\n", "pair": "0" * 64, "preference": 1}, 422, "labeller"),
        ("verdicts", {"labeller": "ann", "pair": "no", "preference": 1}, 422, "pair"),
        ("annotate", {"annotator": "nobody"}, 404, "there are gold, silent"),
        ("pairs", {"pairs": []}, 422, "pairs"),
        ("pairs", {"pairs": [{"instruction": "q", "output_1": "a"}]}, 422, "output_2"),
    ],
)
def test_bad_input_is_told(client: TestClient, path: str, body: dict[str, Any], status: int, said: str) -> None:
    client.post("/v1/label/pairs", json={"pairs": rows(1)})
    reply = client.post(f"/v1/label/{path}", json=body)
    assert reply.status_code == status and said in reply.text


def test_an_unknown_queue_is_told(client: TestClient) -> None:
    reply = client.get("/v1/label/next", params={"labeller": "ann", "queue": "none"})
    assert (reply.status_code, reply.json()["error"]["field"]) == (404, "queue")
    assert client.get("/v1/agreement", params={"queue": "none"}).json()["cells"] == []
    assert client.get("/v1/leaderboard", params={"queue": "none"}).json() == []


def test_a_queue_has_a_size_limit_and_an_upload_beyond_it_adds_nothing(store: LabelStore) -> None:
    items = [PairItem(instruction=str(i), output_1="a", output_2="b") for i in range(labels_module.MAX_QUEUE)]
    assert store.add("q", items) == labels_module.MAX_QUEUE
    extra = [PairItem(instruction=f"more {i}", output_1="a", output_2="b") for i in range(2)]
    with pytest.raises(InputError, match="several queues"):
        store.add("q", [*items[:1], *extra])
    assert (store.size("q"), store.add("q", items[:5]), store.add("other", extra)) == (labels_module.MAX_QUEUE, 0, 2)


def test_many_threads_share_a_store(store: LabelStore) -> None:
    items = [PairItem(instruction=str(i), output_1="a", output_2="b") for i in range(20)]
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda _: store.add("q", items), range(16)))
        pair = store.after("q", 0, 1)[0][1]
        list(pool.map(lambda i: store.record("q", "human", f"p{i}", [(pair, 2.0)]), range(40)))
    assert sum(added) == 20 and len(store.standing("q")) == 40


def said(
    kind: Any, who: str, preferences: Sequence[float | None], generators: tuple[str, str] = ("m", "b")
) -> list[Label]:
    return [Label(f"pair {i}", f"prompt {i}", kind, who, p, generators) for i, p in enumerate(preferences)]


def test_agreement_by_hand() -> None:
    # ann against bob on twelve pairs: the same on 8; chance (6*6 + 6*6) / 144 = 1/2, kappa (2/3 - 1/2) / (1/2) = 1/3
    ann = said("human", "ann", [1, 1, 1, 2, 2, 2] * 2 + [None])
    bob = said("human", "bob", [1, 1, 2, 2, 2, 1] * 2 + [1])
    judge = said("annotator", "judge", [1.2, 1.4, 1.1, 1.9, 1.6, 2])
    found = agreement("q", [*ann, *bob, *judge])
    assert (found.humans, found.annotators) == (("ann", "bob"), ("judge",))
    cells = {(cell.a, cell.b): cell for cell in found.cells}
    two = cells["ann", "bob"]
    assert (two.n, two.agreement, two.kappa) == (12, pytest.approx(8 / 12), pytest.approx(1 / 3))
    assert two.low is not None and two.high is not None and two.low < 1 / 3 < two.high
    whole = cells["ann", "judge"]
    assert (whole.kappa, whole.low, whole.high) == (1.0, None, None)
    # Fleiss over ann and bob: observed 8/12; both categories are half of all verdicts, so chance 1/2
    assert found.fleiss is not None
    assert (found.fleiss.kappa, found.fleiss.n, found.fleiss.raters) == (pytest.approx(1 / 3), 12, 2)


def agreement_seconds(labellers: int, labels_each: int) -> float:
    """CPU time of the figures, the least of three."""
    rng = random.Random(0)
    labels: list[Label] = []
    for number in range(labellers):
        labels += said("human", f"person {number}", [rng.choice([1.0, 1.5, 2.0]) for _ in range(labels_each)])
    seconds = []
    for _ in range(3):
        start = time.process_time()
        agreement("q", labels)
        seconds.append(time.process_time() - start)
    return min(seconds)


def test_the_work_of_agreement_grows_with_the_cells_and_the_labels_alone() -> None:
    few = agreement_seconds(10, 400)
    assert agreement_seconds(40, 400) < 2.0 * few * (40 * 39) / (10 * 9)
    assert agreement_seconds(10, 3200) < 2.0 * few * 8


def test_eighty_labellers_are_compared_in_seconds() -> None:
    rng = random.Random(0)
    labels: list[Label] = []
    for number in range(80):
        labels += said("human", f"person {number}", [rng.choice([1.0, 1.5, 2.0]) for _ in range(400)])
    start = time.process_time()
    found = agreement("q", labels)
    assert time.process_time() - start < 15
    assert (len(found.cells), found.left_out) == (80 * 79 // 2, 0)
    around_zero = [cell for cell in found.cells if (cell.low or 0.0) < 0.0 < (cell.high or 0.0)]
    assert len(around_zero) > 0.9 * len(found.cells), "they agree by chance alone"


def test_a_matrix_has_the_hundred_busiest_raters() -> None:
    labels: list[Label] = []
    for number in range(104):
        labels += said("human", f"person {number:03}", [1.0] * (1 if number < 4 else 2))
    found = agreement("q", labels)
    assert (len(found.humans), found.left_out) == (100, 4)
    assert found.humans[0] == "person 004"


def test_kappa_is_absent_where_it_is_undefined() -> None:
    same = agreement("q", said("human", "ann", [1, 1]) + said("human", "bob", [1, 1]))
    assert (same.cells[0].agreement, same.cells[0].kappa, same.cells[0].low) == (1.0, None, None)
    apart = agreement("q", said("human", "ann", [1, None]) + said("human", "bob", [None, 1]))
    assert (apart.cells[0].n, apart.cells[0].agreement, apart.fleiss) == (0, None, None)


def test_leaderboard_by_hand() -> None:
    people = said("human", "ann", [1, 1, 1.5, 2]) + said("human", "bob", [1, None, None, None])
    judge = said("annotator", "judge", [1.25, 1.25, 1.25, 1.25])
    found = leaderboard([*people, *judge, *said("human", "eve", [1], ("m", "m"))])
    rates = [(rank.judge, rank.generator, rank.win_rate, rank.n) for rank in found]
    # people give m 1, 1, 0.5, 0 and 1 again; the judge always three quarters
    assert rates == [
        ("humans", "m", 70.0, 5),
        ("humans", "b", 30.0, 5),
        ("judge", "m", 75.0, 4),
        ("judge", "b", 25.0, 4),
    ]
    assert all(rank.low < rank.win_rate < rank.high for rank in found)
    many = leaderboard(said("human", "ann", [1.0] * 10 + [2.0] * 10))
    assert [(rank.win_rate, rank.n) for rank in many] == [(50.0, 20)] * 2
    assert 25 < many[0].low < 35 and 65 < many[0].high < 75  # half of 20: a standard error of 11
