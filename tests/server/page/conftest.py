"""The real server with the demo model, and its page in Debian's Chromium, without a window."""

import pytest
from playwright.sync_api import sync_playwright

from tests.server.page.drive import CHROMIUM, Drive

DESKTOP = {"viewport": {"width": 1440, "height": 900}}
PHONE = {"viewport": {"width": 375, "height": 667}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def address(demo_server):
    return f"{demo_server.url}/"


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def visit(browser, address):
    """Opens pages in contexts of their own; at the end none may have reported an error."""
    opened = []

    def open_page(screen=DESKTOP, prepare=lambda page: None, **options):
        context = browser.new_context(**{**screen, **options})
        drive = Drive(context.new_page(), address)
        prepare(drive.page)
        opened.append(drive)
        drive.page.goto(address)
        return drive

    yield open_page
    for drive in opened:
        assert drive.complaints() == []
        drive.page.context.close()
