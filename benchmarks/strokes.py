"""How long after a stroke on the page its picture is there: `make strokes`.

From the pen's lifting to the picture decoded in the browser, by `lcm serve` with the demo model
and the page's own settings, in Debian's chromium.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tests.server.conftest import started
from tests.server.page.drive import CHROMIUM, Drive

STROKES = 30
COLOURS = ("sky", "meadow", "sun", "water", "forest", "dusk")

_WATCH = """() => {
  const [layer, picture] = ['layer', 'picture'].map(id => document.getElementById(id));
  window.times = [];
  let lifted = 0;
  layer.addEventListener('pointerup', () => { lifted = performance.now(); });
  new MutationObserver(async () => {
    await picture.decode();
    times.push(performance.now() - lifted);
  }).observe(picture, {attributeFilter: ['src']});
}"""


def time_of_stroke(drive: Drive, number: int) -> float:
    """Milliseconds of the stroke of that number; what came while it was drawn does not count."""
    drive.colour(COLOURS[number % len(COLOURS)])
    y = 0.1 + 0.8 * (number * 7 % STROKES) / STROKES
    page: Page = drive.page
    drive.stroke((0.1, y), (0.9, 1 - y))
    page.wait_for_selector("#view[aria-busy=false]")
    page.wait_for_timeout(200)
    times: list[float] = page.evaluate("() => times.splice(0)")
    return times[-1]


def seconds_served(log: Path) -> list[float]:
    """How long the server took for each picture that was not given up, by its access log."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [each["seconds"] for each in lines if each["status"] == 200 and "edits" in each["path"]]


def main() -> None:
    """Print the median and the slowest tenth."""
    with (
        tempfile.TemporaryDirectory() as place,
        started(Path(place) / "log") as server,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        drive = Drive(page, server.url)
        page.goto(server.url)
        drive.settled()
        drive.width(60)
        page.evaluate(_WATCH)
        times = sorted(time_of_stroke(drive, number) for number in range(STROKES))
        served = 1000 * statistics.median(seconds_served(Path(place) / "log"))
        print(
            f"{STROKES} strokes: picture after {statistics.median(times):.0f} ms (median),"
            f" {times[int(0.9 * STROKES)]:.0f} ms (slowest tenth); the server took {served:.0f} ms"
        )
        browser.close()


if __name__ == "__main__":
    main()
