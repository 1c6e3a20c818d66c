"""The reason of a failure, out of the vendor's logs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from runtimes.rknn import vendorlog
from runtimes.rknn.vendorlog import VendorLog, informative_lines, silence, summary, vendor_log

TRACEBACK = """Traceback (most recent call last):
  File "rknnlite/api/rknn_lite.py", line 148, in init_runtime
    self.rknn_runtime.build_graph(self.rknn_data)
Exception: RKNN init failed. error code: RKNN_ERR_FAIL
"""


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """The vendor's, with our handler, and with its handlers as they were afterwards."""
    logger = logging.getLogger("acuityLogger")
    before, handlers = logger.propagate, list(logger.handlers)
    vendor_log().clear()
    yield logger
    logger.propagate, logger.handlers[:] = before, handlers


def test_errors_are_kept_until_they_are_cleared(logger: logging.Logger) -> None:
    log = vendor_log()
    if log not in logger.handlers:
        logger.addHandler(log)
    logger.warning("a warning")
    assert log.reason() == "its log gives no reason"
    logger.error("Catch exception when init runtime!")
    logger.error(TRACEBACK)
    assert log.reason() == "Exception: RKNN init failed. error code: RKNN_ERR_FAIL"
    logger.error("a %s one", "second")
    assert log.reason().endswith("RKNN_ERR_FAIL a second one")
    log.clear()
    assert log.reason() == "its log gives no reason"


def test_there_is_one_handler() -> None:
    assert vendor_log() is vendor_log()
    assert vendorlog.LOGGER == "acuityLogger"
    assert VendorLog().level == logging.ERROR


def test_threads_do_not_see_each_others_errors() -> None:
    log = VendorLog()
    record = logging.LogRecord("acuityLogger", logging.ERROR, "", 0, "mine", (), None)
    other = threading.Thread(target=log.emit, args=[record])
    other.start()
    other.join()
    assert log.reason() == "its log gives no reason"
    log.emit(record)
    assert log.reason() == "mine"


def test_without_informative_lines_the_frames_are_quoted() -> None:
    log = VendorLog()
    text = "Catch exception when init runtime!"
    log.emit(logging.LogRecord("acuityLogger", logging.ERROR, "", 0, text, (), None))
    assert log.reason() == text


def test_the_vendors_handlers_are_silenced_and_ours_is_not(logger: logging.Logger) -> None:
    ours, theirs = VendorLog(), logging.StreamHandler()
    logger.addHandler(ours)
    logger.addHandler(theirs)
    silence()
    assert theirs.level == logging.CRITICAL + 1
    assert ours.level == logging.ERROR


def test_of_a_traceback_the_exception_remains() -> None:
    assert informative_lines(TRACEBACK) == [
        "Exception: RKNN init failed. error code: RKNN_ERR_FAIL"
    ]


def test_colours_and_empty_lines_go() -> None:
    assert informative_lines("\x1b[31mE RKNN: a\x1b[0m\n\n \t\n\x1b[1;36mb\x1b[m  \n") == [
        "E RKNN: a",
        "b",
    ]


def test_a_line_is_not_said_twice() -> None:
    assert summary("a\nb\na\n") == "a b"


def test_long_logs_are_cut() -> None:
    assert informative_lines("x" * 1000) == ["x" * 300]
    assert summary("x" * 299 + "\ny") == "x" * 299 + " "
    assert summary("") == ""
