"""What the first and the second signal do."""

import os
import signal

import pytest

from lcmcore.cli.signals import GracefulShutdown


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_is_only_noted(signum, status):
    with GracefulShutdown() as shutdown:
        assert (shutdown.requested(), shutdown.status) == (False, 0)
        os.kill(os.getpid(), signum)
        assert (shutdown.requested(), shutdown.status) == (True, status)
    assert (shutdown.requested(), shutdown.status) == (True, status)


def test_the_second_one_interrupts_and_the_first_one_counts():
    with pytest.raises(KeyboardInterrupt), GracefulShutdown() as shutdown:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert shutdown.status == 143


def test_handlers_are_restored():
    before = [signal.signal(signum, signal.SIG_IGN) for signum in GracefulShutdown.SIGNALS]
    try:
        with pytest.raises(ValueError, match="within"), GracefulShutdown():
            for signum in (signal.SIGINT, signal.SIGTERM):
                assert signal.getsignal(signum) is not signal.SIG_IGN
            raise ValueError("within")
        for signum in (signal.SIGINT, signal.SIGTERM):
            assert signal.getsignal(signum) is signal.SIG_IGN
    finally:
        for signum, handler in zip(GracefulShutdown.SIGNALS, before, strict=True):
            signal.signal(signum, handler)
