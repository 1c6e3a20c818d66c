"""Screenshots of the page: python -m tests.server.page.screenshots README.jpg [FOLDER].

README's picture is the page on a desktop, in light colours; FOLDER gets all of them, to look at.
"""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.server.conftest import started
from tests.server.page.conftest import DESKTOP, PHONE
from tests.server.page.drive import CHROMIUM, Drive

TALL = {**PHONE, "viewport": {"width": 390, "height": 844}, "device_scale_factor": 2}
SCREENS = {"desktop": DESKTOP, "phone": TALL, "small": {**PHONE, "device_scale_factor": 2}}


def draw(drive):
    """Two mountains, a meadow with a lake, two trees, an evening's sky and a sun."""
    drive.width(20)
    drive.colour("slate")
    drive.stroke((0.003, 0.585), (0.24, 0.25), (0.43, 0.49), (0.62, 0.22), (0.995, 0.585))
    drive.colour("meadow")
    drive.stroke((0.003, 0.585), (0.3, 0.57), (0.7, 0.572), (0.995, 0.585))
    for colour, *place in (
        ("slate", 0.24, 0.4),
        ("slate", 0.63, 0.4),
        ("dusk", 0.08, 0.08),
        ("meadow", 0.1, 0.8),
    ):
        drive.fill(colour, *place)
    drive.width(60)
    drive.colour("water")
    for y, left, right in ((0.75, 0.34, 0.66), (0.78, 0.3, 0.7), (0.81, 0.36, 0.64)):
        drive.stroke((left, y), (right, y))
    drive.width(92)
    drive.colour("sun")
    drive.stroke((0.84, 0.15), (0.841, 0.15))
    drive.width(38)
    drive.colour("forest")
    for x, y in ((0.13, 0.84), (0.92, 0.72)):
        drive.stroke((x, y), (x, y - 0.2))
        drive.stroke(
            (x - 0.045, y - 0.05), (x, y - 0.19), (x + 0.045, y - 0.05), (x - 0.04, y - 0.05)
        )
        drive.stroke((x - 0.02, y - 0.09), (x + 0.02, y - 0.09))
    drive.settled()


def repaint_sky(drive):
    """Draw on the picture: its sky is masked, made anew, and compared."""
    source = drive.source
    drive.page.keyboard.press("d")
    drive.changed(source)
    drive.page.fill("#prompt", "a landscape with mountains at night")
    drive.page.locator("#strength").fill("0.8")
    drive.tool("mask")
    drive.width(160)
    drive.stroke((0.02, 0.08), (0.98, 0.08), (0.98, 0.22), (0.02, 0.22))
    drive.page.wait_for_timeout(500)
    drive.settled()
    drive.page.click("#compare")


def screenshots(browser, address):
    """(name, PNG) of each screen, light and dark, the dark ones with a mask."""
    for name, screen in SCREENS.items():
        for scheme in ("light", "dark"):
            page = browser.new_context(**screen, color_scheme=scheme).new_page()
            drive = Drive(page, address)
            page.goto(address)
            drive.settled()
            if scheme == "light":
                yield f"{name}-first", page.screenshot()
            draw(drive)
            for seed in (8, 9, 7):
                page.click("#keep")
                source = drive.source
                page.fill("#seed", str(seed))
                page.keyboard.press("Tab")
                drive.changed(source)
            if scheme == "dark":
                repaint_sky(drive)
            page.mouse.move(2, 2)
            page.evaluate("() => document.activeElement.blur()")
            page.wait_for_timeout(400)
            yield f"{name}-{scheme}", page.screenshot(full_page=name == "phone")
            page.context.close()


def main(readme, folder=None):
    with (
        tempfile.TemporaryDirectory() as place,
        started(Path(place) / "log") as server,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, png in screenshots(browser, server.url):
            if folder:
                (Path(folder) / f"{name}.png").write_bytes(png)
            if name == "desktop-light":
                Image.open(io.BytesIO(png)).convert("RGB").save(readme, quality=88, optimize=True)
                if not folder:
                    break
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
