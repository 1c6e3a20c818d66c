"""Errors are shown in words, stale work is ended, and every control has a name."""

import base64
import io
import json
from pathlib import Path

import pytest
from PIL import Image

import lcmcore.server
from tests.server.conftest import started
from tests.server.page.conftest import PHONE
from tests.server.page.drive import Drive

PAGE = Path(lcmcore.server.__file__).parent / "page"
PICTURES = "**/v1/images/**"


def refusal(status, message, **headers):
    body = json.dumps({"error": {"message": message, "type": "", "param": None, "code": None}})
    return {"status": status, "body": body, "headers": headers}


def completed(colour):
    """What the server would answer with a picture of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (256, 256), colour).save(buffer, "PNG")
    text = base64.b64encode(buffer.getvalue()).decode()
    event = json.dumps({"b64_json": text, "seed": 7})
    body = f"event: image_edit.completed\ndata: {event}\n\n"
    return {"status": 200, "body": body, "headers": {"content-type": "text/event-stream"}}


def test_the_page_is_small():
    assert sum(each.stat().st_size for each in PAGE.iterdir() if each.is_file()) < 60_000


def test_an_error_is_shown_in_the_servers_words_and_goes_with_the_next_picture(visit):
    drive = visit().settled()
    drive.expected = ("400",)
    before = drive.source
    drive.page.route(PICTURES, lambda route: route.fulfill(**refusal(400, "the paint is dry")))
    drive.stroke((0.2, 0.2), (0.8, 0.8))
    assert drive.trouble() == "The paint is dry"
    drive.page.wait_for_selector("#view[aria-busy=false]")
    drive.page.unroute(PICTURES)
    drive.stroke((0.8, 0.2), (0.2, 0.8))
    drive.changed(before)
    assert not drive.page.locator("#trouble").is_visible()


@pytest.mark.parametrize("screen", [{}, PHONE], ids=["desktop", "phone"])
def test_an_error_moves_nothing_and_covers_no_tool(visit, screen):
    drive = visit(screen).settled()
    drive.expected = ("400",)
    controls = "#layer, .rail, #colours, #settings, #keep"
    places = "() => [...document.querySelectorAll('%s')].map(each => each.getBoundingClientRect())"
    boxes = drive.page.evaluate(places % controls)
    drive.page.route(PICTURES, lambda route: route.fulfill(**refusal(400, "no paint " * 20)))
    drive.page.touchscreen.tap(*drive.point(0.5, 0.5)) if screen else drive.stroke((0.4, 0.5))
    drive.trouble()
    assert drive.page.evaluate(places % controls) == boxes
    (trouble,) = drive.page.evaluate(places % "#trouble")
    for box in boxes:
        assert (
            trouble["right"] <= box["left"]
            or trouble["bottom"] <= box["top"]
            or box["right"] <= trouble["left"]
            or box["bottom"] <= trouble["top"]
        ), box


def test_a_busy_server_is_asked_again_by_itself(visit):
    drive = visit().settled()
    drive.expected = ("429",)
    before = drive.source
    answers = iter([refusal(429, "the queue is full", **{"retry-after": "1"})])

    def answer(route):
        found = next(answers, None)
        route.fulfill(**found) if found else route.continue_()

    drive.page.route(PICTURES, answer)
    drive.tool("fill")
    drive.page.mouse.click(*drive.point(0.5, 0.5))
    assert drive.trouble() == "The queue is full. Next try in 1 s."
    drive.changed(before)
    assert not drive.page.locator("#trouble").is_visible()


def test_a_server_that_is_gone_is_said_and_found_again(visit):
    drive = visit().settled()
    drive.expected = ("ERR_FAILED",)
    before = drive.source
    drive.page.route(PICTURES, lambda route: route.abort())
    drive.tool("fill")
    drive.page.mouse.click(*drive.point(0.5, 0.5))
    told = "The server does not answer. Does lcm serve still run? Next try in 2 s."
    assert drive.trouble() == told
    drive.page.unroute(PICTURES)
    drive.changed(before)


def test_a_file_that_is_no_picture(visit, tmp_path):
    drive = visit().settled()
    path = tmp_path / "note.png"
    path.write_text("not a picture")
    drive.page.set_input_files("#file", path)
    assert drive.trouble() == "That is not a picture that this browser can read."


def test_no_prompt_and_a_seed_that_is_none(visit):
    drive = visit().settled()
    asked = len(drive.asked)
    drive.page.fill("#prompt", " ")
    assert drive.trouble() == "Write in a few words what the picture should show."
    drive.page.fill("#prompt", "a lake")
    drive.page.fill("#seed", "x")
    drive.page.wait_for_function(
        "() => document.getElementById('trouble').textContent.startsWith('A seed')"
    )
    assert len(drive.asked) - asked <= 1


def test_a_stroke_aborts_what_is_stale_and_its_picture_is_never_shown(visit):
    """The first job's answer is held back until the second stroke has its picture."""
    drive = visit().settled()
    before = drive.source
    held = []

    def answer(route):
        if not held:
            held.append(route)
        else:
            route.fulfill(**completed("green"))

    drive.page.route(PICTURES, answer)
    failed = []
    drive.page.on("requestfailed", lambda request: failed.append(request.failure))
    drive.tool("fill")
    drive.page.mouse.click(*drive.point(0.5, 0.5))
    drive.page.wait_for_selector("#line:not([hidden])")
    assert drive.page.locator("#line").is_visible()
    drive.colour("sky")
    drive.tool("fill")
    drive.page.mouse.click(*drive.point(0.5, 0.5))
    drive.changed(before)
    assert failed == ["net::ERR_ABORTED"]
    assert drive.picture()[:3] == [0, 128, 0]
    assert drive.page.locator("#line").is_hidden()


def test_escape_stops_the_job(visit):
    drive = visit().settled()
    before = drive.picture()
    drive.page.route(PICTURES, lambda route: None)
    drive.tool("fill")
    drive.page.mouse.click(*drive.point(0.5, 0.5))
    drive.page.wait_for_selector("#stop:not([hidden])")
    with drive.page.expect_event("requestfailed") as failed:
        drive.page.keyboard.press("Escape")
    assert failed.value.failure == "net::ERR_ABORTED"
    drive.settled()
    assert drive.picture() == before


def test_the_page_asks_for_a_key_and_sends_it(visit):
    def refuse(page):
        def answer(route):
            if route.request.headers.get("authorization") == "Bearer open sesame":
                route.continue_()
            else:
                route.fulfill(**refusal(401, "a key is needed"))

        page.route("**/v1/**", answer)

    drive = visit(prepare=refuse)
    drive.expected = ("401",)
    drive.page.get_by_label("Key", exact=True).fill("open sesame")
    drive.page.keyboard.press("Enter")
    drive.settled()
    assert drive.asked[0].headers["authorization"] == "Bearer open sesame"


def test_a_server_with_a_key_serves_the_page_to_who_has_it(browser, tmp_path):
    """The browser itself asks for it, as a password: the server has nothing for who has none."""
    with started(tmp_path / "log", "--api-key", "tulip") as server:
        password = {"username": "me", "password": "tulip"}
        context = browser.new_context(http_credentials=password)
        drive = Drive(context.new_page(), server.url)
        drive.page.goto(server.url)
        drive.settled()
        assert drive.complaints() == []
        context.close()


@pytest.mark.parametrize("screen", [{}, PHONE], ids=["desktop", "phone"])
def test_every_control_has_a_name_and_can_be_focused(visit, screen):
    drive = visit(screen).settled()
    drive.page.keyboard.press("Tab")
    nameless = drive.page.evaluate(
        """() => [...document.querySelectorAll('button, input:not([type=file]), select, textarea')]
            .filter(each => !(each.ariaLabel || each.textContent.trim() ||
                [...(each.labels ?? [])].some(label => label.textContent.trim())))
            .map(each => each.outerHTML)"""
    )
    assert nameless == []
    outlined = """each => getComputedStyle(each).outlineStyle !== 'none' ||
        getComputedStyle(each.closest('label') ?? each).outlineStyle !== 'none'"""
    for each in (
        "#layer",
        "#open",
        "[name=tool]:checked",
        "[name=colour]:checked",
        "#strength",
    ):
        found = drive.page.locator(each)
        found.focus()
        drive.page.keyboard.press("Shift")  # as by the keyboard, which has a ring
        assert found.evaluate(outlined), each
