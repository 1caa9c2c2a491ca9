from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response
from playwright.sync_api import Browser, Page, expect
from starlette.testclient import TestClient

from rayalign.annotator.asking.api import Annotation, AnnotatorInfo, PairItem, PreferenceRequest
from rayalign.annotator.store import label_figures
from rayalign.annotator.store.labels import LabelStore
from rayalign.annotator.web.access import Refused
from rayalign.annotator.web.app import AnnotatorsReply
from rayalign.annotator.web.errors import answer_errors
from rayalign.annotator.web.gate import refusal
from rayalign.annotator.web.labelling import labelling_router
from rayalign.annotator.web.page import page_router
from rayalign.data.paddock import gold
from tests.annotator.web.test_app import client_of
from tests.browser import SIDEWAYS, chromium

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
NAMES = ("gold", "verbose", "undecided", "broken", "out of order")
PATIENCE = 60_000
"""milliseconds for anything to be seen; playwright's own five seconds are less than a busy machine may stand still"""
expect.set_options(PATIENCE)
NAME_OF_EVERY_FIELD = """() => [...document.querySelectorAll('input, select, textarea, button, progress, [role=tab]')]
    .filter(e => !e.labels?.length && !e.getAttribute('aria-label') && !e.textContent.trim()).map(e => e.outerHTML)"""


def _annotation(index: int, item: PairItem, name: str) -> Annotation:
    if name in ("broken", "out of order"):
        return Annotation(index=index, annotator=name, preference=None, reason="the judge did not answer in time")
    if name == "undecided":
        return Annotation(index=index, annotator=name, preference=1.5, explanation=item.output_1[:120])
    if name == "verbose":
        longer = len(item.output_2) > len(item.output_1)
        return Annotation(index=index, annotator=name, preference=1.8 if longer else 1.2, explanation="It says more.")
    if "task" not in item.meta:
        return Annotation(index=index, annotator=name, preference=1.0 if "good" in item.output_1 else 2.0)
    first, second = (gold.utility(item.prompt, answer) for answer in (item.output_1, item.output_2))
    told = f"True worth {first:.2f} against {second:.2f}."
    return Annotation(
        index=index, annotator=name, preference=1.0 if first > second else 2.0, explanation=told, cached=True
    )


async def annotate(items: Sequence[PairItem], name: str) -> list[Annotation]:
    return [_annotation(index, item, name) for index, item in enumerate(items)]


def application(labels: LabelStore) -> FastAPI:
    """The page before annotators that need no judge. With a password in `state`, it is asked for."""
    app = FastAPI()
    answer_errors(app)
    app.include_router(page_router())
    app.include_router(labelling_router(labels, annotate, lambda: list(NAMES), label_figures))
    app.state.token, app.state.busy = None, 0
    app.state.thinking = ""  # who gives no answer yet

    @app.middleware("http")
    async def guard(request: Request, following: Any) -> Response:
        given = request.headers.get("authorization")
        if request.url.path.startswith("/v1") and app.state.token and given != f"Bearer {app.state.token}":
            return refusal(Refused(401, "unauthorized", "no token"))
        if request.method == "POST" and app.state.busy:
            app.state.busy -= 1
            return refusal(Refused(429, "rate_limited", "rate limit", retry_after=1))
        reply: Response = await following(request)
        return reply

    @app.get("/v1/annotators")
    def annotators() -> AnnotatorsReply:
        kinds = {"kind": "reward_model", "revision": "1", "scores": False, "pooled": True}
        return AnnotatorsReply(annotators=tuple(AnnotatorInfo(name=n, **kinds) for n in NAMES))

    @app.post("/v1/preferences")
    async def preferences(body: PreferenceRequest) -> dict[str, list[Annotation]]:
        while body.annotator == app.state.thinking:
            await asyncio.sleep(0.01)
        return {"annotations": await annotate(body.pairs, body.annotator)}

    return app


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FastAPI, str]]:
    app = application(LabelStore(f"sqlite:///{tmp_path_factory.mktemp('labels')}/labels.db"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        until = time.monotonic() + 20
        while not server.started and time.monotonic() < until:
            time.sleep(0.02)
        yield app, f"http://127.0.0.1:{listening.getsockname()[1]}/"
        server.should_exit = True
        thread.join(timeout=10)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser: Browser, service: tuple[FastAPI, str]) -> Iterator[Page]:
    """A fresh tab; whatever it writes to the console as an error fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    context.set_default_timeout(PATIENCE)
    tab = context.new_page()
    wrong: list[str] = []
    tab.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.goto(service[1])
    yield tab
    context.close()
    expected = [text for text in wrong if "429" in text or ("401" in text and service[0].state.token)]
    service[0].state.token, service[0].state.thinking = None, ""
    assert wrong == expected


def pairs(count: int, **changes: str) -> list[dict[str, Any]]:
    names = {"generator_1": "tuned", "generator_2": "base"}
    return [
        {
            "instruction": f"question {i}",
            "output_1": f"good {i}",
            "output_2": f"bad {i}, but so long",
            **names,
            **changes,
        }
        for i in range(count)
    ]


def upload(page: Page, folder: Path, queue: str, rows: list[dict[str, Any]]) -> None:
    file = folder / "pairs.json"
    file.write_text(json.dumps(rows))
    page.get_by_role("tab", name="Label").click()
    page.get_by_label("Queue", exact=True).locator("visible=true").fill(queue)
    page.get_by_text("Add pairs from a file").click()
    page.get_by_label("A JSON list of pairs").set_input_files(file)
    expect(page.locator("#label-status")).to_contain_text(f"{len(rows)} of {len(rows)} pairs")


def begin(page: Page, labeller: str) -> None:
    if not page.get_by_label("Your name").is_visible():
        page.get_by_text("Labelling as").click()
    page.get_by_label("Your name").fill(labeller)
    page.get_by_label("Your name").press("Enter")
    expect(page.get_by_role("heading", name="Pair 1", exact=True)).to_be_focused()


def test_the_files_come_under_a_strict_policy_and_are_asked_for_anew() -> None:
    app = FastAPI()
    app.include_router(page_router())
    client = TestClient(app)
    for path, kind in {"/": "text/html", "/page.css": "text/css", "/page.js": "text/javascript"}.items():
        reply = client.get(path)
        assert reply.status_code == 200 and reply.headers["content-type"].startswith(kind)
        assert "default-src 'self'" in reply.headers["content-security-policy"]
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["cache-control"] == "no-cache"


def test_every_annotator_is_heard_as_it_answers(page: Page, service: tuple[FastAPI, str]) -> None:
    service[0].state.thinking = "verbose"
    page.get_by_role("button", name="Fill in an example").click()
    page.get_by_role("button", name="Ask every annotator").click()
    line = page.get_by_role("list", name="Verdicts").get_by_role("listitem")
    expect(page.get_by_role("status").filter(has_text="4 of 5")).to_be_visible()
    expect(line.filter(has_text="verbose")).to_contain_text("thinking")
    service[0].state.thinking = ""
    expect(page.get_by_role("status").filter(has_text="All 5")).to_be_visible()
    # the example reaches the judge with what the embedded world knows: the second answer names the right food
    expect(line.filter(has_text="gold")).to_contain_text("Answer 2 is better")
    expect(line.filter(has_text="gold")).to_contain_text("True worth 0.")
    expect(line.filter(has_text="verbose")).to_contain_text("Answer 1 is better (80%)")
    expect(line.filter(has_text="undecided")).to_contain_text("Tie")
    expect(line.filter(has_text="broken")).to_contain_text("No verdict")
    expect(line.filter(has_text="broken")).to_contain_text("did not answer in time")


def test_a_busy_service_is_waited_for(page: Page, service: tuple[FastAPI, str]) -> None:
    service[0].state.busy = 5
    page.get_by_role("button", name="Fill in an example").click()
    page.get_by_role("button", name="Ask every annotator").click()
    expect(page.get_by_role("status").filter(has_text="All 5")).to_be_visible()
    expect(page.get_by_role("list", name="Verdicts")).not_to_contain_text("rate limit")


def test_markup_in_texts_stays_text(page: Page, tmp_path: Path) -> None:
    page.get_by_label("Instruction").fill(HOSTILE)
    page.get_by_label("Answer 1").fill(HOSTILE)
    page.get_by_label("Answer 2").fill("b")
    page.get_by_role("button", name="Ask every annotator").click()
    expect(page.locator("#verdicts")).to_contain_text("<img src=x")
    upload(page, tmp_path, "hostile", pairs(2, instruction=HOSTILE, generator_1=HOSTILE))
    begin(page, "ann")
    expect(page.locator("#shown-instruction")).to_have_text(HOSTILE)
    page.keyboard.press("1")
    expect(page.get_by_role("heading", name="Pair 2")).to_be_visible()
    page.get_by_role("tab", name="Leaderboard").click()
    expect(page.get_by_role("table")).to_contain_text("<img src=x")
    assert "owned" not in page.title() and page.locator("main img, main script").count() == 0


def test_labelling_by_keyboard_alone_with_undo_and_a_break(page: Page, tmp_path: Path) -> None:
    upload(page, tmp_path, "keys", pairs(4))
    begin(page, "kim 1")
    expect(page.locator("#work")).not_to_contain_text("tuned")
    expect(page.locator("#done-text")).to_have_text("0 of 4 done")
    first = page.locator("#shown-instruction").inner_text()
    page.keyboard.press("1")
    expect(page.get_by_role("heading", name="Pair 2")).to_be_focused()
    page.keyboard.press("u")
    expect(page.locator("#shown-instruction")).to_have_text(first)
    expect(page.locator("#label-status")).to_contain_text("Taken back")
    for key, done in (("2", 1), ("0", 2)):
        page.keyboard.press(key)
        expect(page.locator("#done-text")).to_have_text(f"{done} of 4 done")
    third = page.locator("#shown-instruction").inner_text()
    page.reload()
    expect(page.locator("#shown-instruction")).to_have_text(third)
    expect(page.locator("#done-text")).to_have_text("2 of 4 done")
    page.keyboard.press("s")
    expect(page.locator("#done-text")).to_have_text("3 of 4 done")
    page.keyboard.press("1")
    expect(page.get_by_role("heading", name="All done")).to_be_focused()
    rows = page.evaluate("fetch('v1/label/export?queue=keys').then(reply => reply.json())")
    assert sorted(row["preference"] or 0 for row in rows)[:2] == [0, 1] and 1.5 in [row["preference"] for row in rows]


def test_typing_a_name_labels_nothing_and_changes_no_labeller(page: Page, tmp_path: Path) -> None:
    upload(page, tmp_path, "typing", pairs(2))
    begin(page, "lee")
    page.get_by_text("Labelling as lee").click()
    page.get_by_label("Your name").press_sequentially("120su")
    expect(page.locator("#done-text")).to_have_text("0 of 2 done")
    page.get_by_text("Labelling as lee").focus()
    page.keyboard.press("1")
    expect(page.locator("#done-text")).to_have_text("1 of 2 done")
    found = page.evaluate("fetch('v1/label/export?queue=typing').then(reply => reply.json())")
    assert [row["annotator"] for row in found] == ["lee"]


def test_agreement_and_leaderboard_show_figures(page: Page, tmp_path: Path) -> None:
    upload(page, tmp_path, "figures", pairs(12))
    for labeller, wanted in (("ann", "good"), ("bob", "bad")):
        begin(page, labeller)
        for done in range(12):
            expect(page.locator("#done-text")).to_have_text(f"{done} of 12 done")
            good_first = page.locator("#shown-1").inner_text().startswith("good")
            choice = "good" if done < 9 else wanted
            page.keyboard.press("1" if good_first == (choice == "good") else "2")
        expect(page.get_by_role("heading", name="All done")).to_be_visible()
    page.get_by_role("tab", name="Agreement").click()
    page.get_by_role("button", name="Ask the annotators").click()
    told = "broken, out of order gave no verdict on 12 (the judge did not answer"  # one reason once, whoever has it
    expect(page.locator("#agreement-status")).to_contain_text(told)
    numbers = page.get_by_role("region", name="Agreement of each two in numbers")
    expect(numbers.get_by_role("row").filter(has_text="bob and gold")).to_contain_text("75%")
    expect(page.get_by_role("region", name="Matrix of kappa").get_by_role("rowheader")).to_have_count(5)
    expect(page.locator("#matrix")).to_contain_text("Fleiss")
    page.get_by_role("tab", name="Leaderboard").click()
    expect(page.get_by_role("row").filter(has_text="tuned")).to_contain_text("87.5%")
    expect(page.get_by_role("img", name="Win rates")).to_be_visible()
    page.get_by_label("Judged by").select_option("gold")
    expect(page.get_by_role("row").filter(has_text="tuned")).to_contain_text("100.0%")


def test_a_file_that_is_no_list_of_pairs_is_told(page: Page, tmp_path: Path) -> None:
    page.get_by_role("tab", name="Label").click()
    page.get_by_text("Add pairs from a file").click()
    for text, said in (("{}", "not a JSON list"), ('[{"output_1": "a"}]', "Row 1 of the file lacks")):
        (tmp_path / "wrong.json").write_text(text)
        page.get_by_label("A JSON list of pairs").set_input_files(tmp_path / "wrong.json")
        expect(page.get_by_role("alert")).to_contain_text(said)


@pytest.mark.parametrize("view", ["compare", "label", "agreement", "leaderboard"])
def test_views_fit_every_width_and_name_every_field(page: Page, tmp_path: Path, view: str) -> None:
    upload(page, tmp_path, f"phone-{view}", pairs(2, output_1="w" * 300, generator_1="long-name-" * 12))
    begin(page, "ann")
    page.keyboard.press("1")
    page.set_viewport_size({"width": 360, "height": 740})
    page.get_by_role("tab", name=view.capitalize()).click()
    expect(page.get_by_role("tabpanel")).to_have_attribute("id", view)
    if view == "agreement":
        page.get_by_role("button", name="Ask the annotators").click()
        expect(page.locator("#agreement-status")).to_contain_text("have been asked")
    if view == "compare":
        page.get_by_role("button", name="Fill in an example").click()
        page.get_by_role("button", name="Ask every annotator").click()
        expect(page.get_by_role("status").filter(has_text="All 5")).to_be_visible()
    for width in (360, 390, 1000, 1400):
        page.set_viewport_size({"width": width, "height": 740})
        assert page.evaluate(SIDEWAYS) == 0, width
    assert page.evaluate(NAME_OF_EVERY_FIELD) == []


@pytest.mark.parametrize("view", ["compare", "label"])
def test_the_tab_key_reaches_everything(page: Page, tmp_path: Path, view: str) -> None:
    if view == "label":
        upload(page, tmp_path, "tabbing", pairs(1))
        begin(page, "ann")
    wanted = page.evaluate(
        "() => [...document.querySelectorAll('a, button, input, select, textarea, summary')]"
        ".filter(e => e.checkVisibility() && !e.disabled && e.tabIndex >= 0).length"
    )
    reached = set()
    for _ in range(wanted + 4):
        reached.add(page.evaluate("document.activeElement.outerHTML.slice(0, 120)"))
        page.keyboard.press("Tab")
    assert len({html for html in reached if not html.startswith("<body")}) >= wanted > 5


def test_arrow_keys_walk_the_tabs_and_the_skip_link_leads_to_the_view(page: Page) -> None:
    page.locator("body").press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    page.get_by_role("tab", name="Compare").focus()
    for key, name in (
        ("ArrowRight", "Label"),
        ("End", "Leaderboard"),
        ("ArrowRight", "Compare"),
        ("ArrowLeft", "Leaderboard"),
    ):
        page.keyboard.press(key)
        expect(page.get_by_role("tab", name=name)).to_be_focused()
        expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")
        expect(page.get_by_role("tabpanel")).to_have_attribute("id", name.lower())


def test_a_refused_token_is_told_and_a_right_one_kept_for_the_tab(page: Page, service: tuple[FastAPI, str]) -> None:
    service[0].state.token = "secret"
    page.get_by_role("button", name="Fill in an example").click()
    page.get_by_role("button", name="Ask every annotator").click()
    expect(page.get_by_role("alert")).to_contain_text("asks for an access token")
    page.get_by_label("Token of this service").fill("secret")
    page.get_by_label("Token of this service").press("Enter")
    page.get_by_role("button", name="Ask every annotator").click()
    expect(page.get_by_role("status").filter(has_text="All 5")).to_be_visible()
    expect(page.get_by_role("alert")).to_be_empty()
    assert page.evaluate("[sessionStorage.length, localStorage.length]") == [1, 0]


def test_the_routes_are_documented_without_any_other_server(browser: Browser, tmp_path: Path) -> None:
    app = client_of(tmp_path).app
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        page = browser.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        home = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        page.goto(f"{home}docs")
        page.get_by_role("heading", name="POST /v1/preferences").wait_for(timeout=PATIENCE)
        assert page.get_by_role("heading", name="POST /v1/chat/completions").is_visible()
        assert all(url.startswith(home) for url in asked)
        page.close()
        server.should_exit = True
        thread.join(timeout=10)
