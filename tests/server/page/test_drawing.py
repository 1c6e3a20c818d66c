"""From a stroke to a picture, by the real server and the demo model."""

import base64
import io
import json

import httpx
import numpy as np
from PIL import Image

from tests.server.page.conftest import PHONE


def pixels_of(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def loudest(one, other):
    return int(np.abs(np.subtract(one, other, dtype=np.int64)).max())


def test_an_empty_drawing_is_a_picture_of_the_prompt_alone(visit):
    drive = visit().settled()
    (request,) = drive.asked
    asked = json.loads(request.post_data)
    assert request.url.endswith("/v1/images/generations")
    assert "strength" not in asked
    assert asked["prompt"] == "a green meadow with mountains and a lake and pine trees at sunset"
    assert (asked["seed"], asked["size"], asked["stream"]) == (7, "256x256", True)


def test_a_stroke_changes_the_picture(visit):
    drive = visit().settled()
    before, source = drive.picture(), drive.source
    drive.fill("sky")
    drive.changed(source)
    drive.width(120)
    middle, source = drive.picture(), drive.source
    drive.colour("ink")
    drive.stroke((0.1, 0.2), (0.9, 0.8))
    drive.changed(source)
    assert loudest(before, middle) > 20
    assert loudest(middle, drive.picture()) > 20
    assert drive.asked[-1].url.endswith("/v1/images/edits")


def test_the_picture_changes_while_one_draws(visit):
    drive = visit().settled()
    source = drive.source
    drive.page.mouse.move(*drive.point(0.2, 0.2))
    drive.page.mouse.down()
    drive.page.mouse.move(*drive.point(0.8, 0.6), steps=5)
    drive.page.wait_for_function("s => document.getElementById('picture').src !== s", arg=source)
    drive.page.mouse.up()
    drive.settled()


def test_a_short_stroke_asks_once(visit):
    """Else its picture waits for the end of a step of one that is stale."""
    drive = visit().settled()
    source, asked = drive.source, len(drive.asked)
    drive.page.mouse.move(*drive.point(0.2, 0.2))
    drive.page.mouse.down()
    drive.page.mouse.move(*drive.point(0.3, 0.3))
    drive.page.mouse.up()
    drive.changed(source)
    assert len(drive.asked) == asked + 1


def test_the_newest_stroke_wins_and_one_job_is_in_flight(visit):
    drive = visit().settled()
    source = drive.source
    drive.width(90)
    for colour, y in (("sky", 0.2), ("meadow", 0.7), ("sun", 0.3), ("water", 0.8)):
        drive.colour(colour)
        drive.stroke((0.1, y), (0.9, y), steps=4)
    drive.changed(source)
    asked = drive.form()
    sent = pixels_of(asked["image"])
    assert sent[int(0.8 * 256), 128, :3].tolist() == [0x2F, 0x62, 0xB0]  # the newest is in it
    del asked["stream"]
    files = {"image": asked.pop("image")}
    answer = httpx.post(f"{drive.address}v1/images/edits", data=asked, files=files, timeout=60)
    again = base64.b64decode(answer.json()["data"][0]["b64_json"])
    assert np.array_equal(pixels_of(drive.saved()[1]), pixels_of(again))
    assert drive.most_in_flight == 1


def test_undo_redo_eraser_and_clear(visit):
    drive = visit().settled()
    empty = drive.drawing()
    drive.width(100)
    drive.stroke((0.3, 0.5), (0.7, 0.5))
    drawn = drive.drawing()
    drive.page.keyboard.press("Control+z")
    assert drive.drawing() == empty
    drive.page.click("#redo")
    assert drive.drawing() == drawn != empty
    drive.page.keyboard.press("e")
    drive.width(160)
    drive.stroke((0.2, 0.5), (0.8, 0.5))
    assert drive.drawing() == empty
    drive.page.keyboard.press("Control+z")
    drive.page.keyboard.press("Delete")
    assert drive.drawing() == empty
    assert drive.page.locator("#hint").is_visible()
    drive.settled()
    assert drive.asked[-1].url.endswith("/v1/images/generations")


def test_fill_stops_at_strokes(visit):
    drive = visit().settled()
    drive.width(40)
    drive.stroke((0.3, 0.3), (0.7, 0.3), (0.7, 0.7), (0.3, 0.7), (0.3, 0.3))
    drive.fill("sun", 0.5, 0.5)
    pixels = np.reshape(drive.drawing(), (32, 32, 4))
    assert pixels[16, 16].tolist() == [0xF6, 0xC9, 0x45, 255]
    assert pixels[3, 3].tolist() == [0, 0, 0, 0]
    assert np.all(pixels[9:23, 9:23, 3] == 255)  # no seam between stroke and fill
    drive.settled()


def test_the_mask_is_sent_and_what_it_leaves_is_kept(visit):
    drive = visit().settled()
    drive.fill("sky")
    drive.page.keyboard.press("m")
    drive.width(160)
    drive.stroke((0.7, 0.2), (0.7, 0.8))
    drive.settled()
    mask = pixels_of(drive.form()["mask"])
    assert mask[128, 179, :3].tolist() == [255] * 3
    assert mask[128, 40, :3].tolist() == [0] * 3
    shown = np.reshape(drive.picture(), (32, 32, 4))[..., :3]
    assert loudest(shown[:, :10], np.full((32, 10, 3), [0x86, 0xB9, 0xE3])) <= 2
    drive.page.click("#unmask")
    drive.settled()
    assert "mask" not in drive.form()


def test_a_picture_is_loaded_pasted_and_dropped(visit, tmp_path):
    drive = visit().settled()
    red, green, blue = ([230, 20, 20], [20, 200, 40], [20, 40, 220])
    path = tmp_path / "red.png"
    Image.new("RGB", (300, 100), tuple(red)).save(path)
    drive.page.set_input_files("#file", path)
    drive.page.wait_for_function("() => !document.getElementById('undo').disabled")

    def send(event, field, colour):
        drive.page.evaluate(
            """async ([event, field, colour]) => {
                const canvas = document.createElement('canvas');
                canvas.width = canvas.height = 50;
                const context = canvas.getContext('2d');
                context.fillStyle = `rgb(${colour})`;
                context.fillRect(0, 0, 50, 50);
                const blob = await new Promise(done => canvas.toBlob(done));
                const data = new DataTransfer();
                data.items.add(new File([blob], 'it.png', {type: 'image/png'}));
                const init = {bubbles: true, cancelable: true, [field]: data};
                document.body.dispatchEvent(
                    event === 'paste' ? new ClipboardEvent(event, init)
                    : new DragEvent(event, init));
            }""",
            [event, field, colour],
        )

    for colour in (red, green, blue):
        if colour is green:
            send("paste", "clipboardData", green)
        elif colour is blue:
            send("drop", "dataTransfer", blue)
        drive.page.wait_for_function(
            """colour => {
                const context = document.getElementById('layer').getContext('2d');
                const {data} = context.getImageData(9, 9, 1, 1);
                return colour.every((each, at) => data[at] === each);
            }""",
            arg=colour,
        )
    drive.settled()


def test_the_keyboard_draws(visit):
    drive = visit().settled()
    source, empty = drive.source, drive.drawing()
    drive.width(100)
    drive.page.locator("#layer").focus()
    drive.page.keyboard.press("Space")
    for _ in range(6):
        drive.page.keyboard.press("Shift+ArrowRight")
    drive.page.keyboard.press("Space")
    drive.changed(source)
    drawn = np.reshape(drive.drawing(), (32, 32, 4))
    assert drawn[16, 30, 3] > 0
    assert drawn[16, 10, 3] == 0
    assert empty != drive.drawing()


def test_a_finger_draws_on_a_phone_and_nothing_is_wider_than_it(visit):
    drive = visit(PHONE).settled()
    source = drive.source
    drive.width(100)
    drive.page.touchscreen.tap(*drive.point(0.5, 0.5))
    drive.changed(source)
    assert np.reshape(drive.drawing(), (32, 32, 4))[16, 16, 3] > 0
    assert drive.page.evaluate("() => document.documentElement.scrollWidth") == 375
    for each in ("#layer", "#picture", "[name=tool]", "#colours"):  # without scrolling
        box = drive.page.locator(each).first.bounding_box()
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= 667


def test_size_steps_and_seed_are_those_of_the_settings(visit):
    drive = visit().settled()
    source = drive.source
    drive.page.select_option("#size", "384x256")
    drive.page.locator("#steps").fill("2")
    drive.page.fill("#seed", "11")
    drive.page.keyboard.press("Tab")
    drive.changed(source)
    name, png = drive.saved()
    image = Image.open(io.BytesIO(png))
    assert name == "lcm-11.png"
    assert image.size == (384, 256)
    assert (image.text["seed"], image.text["steps"]) == ("11", "2")
    assert "a green meadow" in image.text["prompt"]


def test_previews_are_shown_where_a_step_takes_over_half_a_second(visit):
    """By a clock that runs a hundred times as fast."""
    clock = "{const n = performance.now.bind(performance); performance.now = () => 100 * n();}"
    seen = """new MutationObserver(() => {
        if (document.getElementById('picture')?.matches('.preview'))
            (window.seen ??= new Set()).add(document.getElementById('status').textContent);
    }).observe(document, {subtree: true, attributes: true, childList: true});"""
    slow = visit(prepare=lambda page: (page.add_init_script(clock), page.add_init_script(seen)))
    slow.settled()
    assert set(slow.page.evaluate("() => [...window.seen]")) <= {
        f"Step {n} of 4" for n in (1, 2, 3)
    }
    assert slow.page.evaluate("() => window.seen.size") > 0


def test_keep_compare_and_reload(visit):
    drive = visit().settled()
    drive.page.keyboard.press("k")
    drive.page.wait_for_selector(".thumb")
    first, source = drive.picture(), drive.source
    drive.fill("ink")
    drive.changed(source)
    second = drive.picture()
    drive.page.keyboard.press("c")
    assert drive.page.locator("#names").inner_text().split() == ["drawing", "picture"]
    assert drive.page.locator("#other").is_visible()
    drive.page.keyboard.press("c")
    assert not drive.page.locator("#other").is_visible()
    source = drive.source
    drive.page.click(".thumb")
    drive.changed(source)
    assert drive.picture() == first != second
    drive.page.click("#compare")
    assert drive.page.locator("#names").inner_text().split() == ["newest", "kept"]
    drive.page.reload()
    drive.page.wait_for_selector(".thumb")
    drive.page.locator(".kept li").hover()
    drive.page.click(".remove")
    assert drive.page.locator(".thumb").count() == 0
    drive.settled()


def test_the_picture_becomes_the_drawing(visit):
    drive = visit().settled()
    picture, source = drive.picture(), drive.source
    drive.page.keyboard.press("d")
    drive.changed(source)
    off = np.abs(np.subtract(picture, drive.drawing(), dtype=np.int64))
    assert off.mean() < 3  # both are scaled to be compared, which moves edges
    assert np.abs(np.subtract(picture, drive.picture(), dtype=np.int64)).mean() > 3  # made of it
