"""Which of the networks are open: all that were used, or one at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from lcmcore.bundle import COMPONENTS
from lcmcore.errors import NetworkError
from lcmcore.runtime import Network


class AllOpen:
    """Networks stay open; those that a call will need are opened while it works with others."""

    def __init__(self, open_network: Callable[[str], Network]) -> None:
        self._open_network = open_network
        self._networks: dict[str, Network] = {}
        self._failed: set[str] = set()
        self._locks = {component: threading.Lock() for component in COMPONENTS}
        self._reader: threading.Thread | None = None
        self._reader_lock = threading.Lock()
        self._closed = False
        self._last: Network | None = None

    @contextmanager
    def use(self, component: str) -> Iterator[Network]:
        """The network, opened if it is not; raises NetworkError."""
        network, last = self._opened(component), self._last
        rest = getattr(last, "rest", None)
        if rest is not None and last is not network:
            rest()
        self._last = network
        yield network

    def expect(self, components: Sequence[str]) -> None:
        """Open them in a thread, or here if there is no core to spare for that.

        Raises what the thread met with one of them; so ask again now and then.
        """
        missing = [component for component in components if component not in self._networks]
        for component in missing:
            if component in self._failed or _cores() == 1:
                self._opened(component)
        with self._reader_lock:
            if missing and not self._closed and not (self._reader and self._reader.is_alive()):
                self._reader = threading.Thread(target=self._open_ahead, args=(missing,))
                self._reader.start()

    def close(self) -> None:
        """Close all, when the thread has opened what it was at; none can be used any more."""
        with self._reader_lock:
            self._closed = True
        if self._reader is not None:
            self._reader.join()
        self._close_but()

    def _opened(self, component: str) -> Network:
        with self._locks[component]:
            if self._closed:
                raise NetworkError(component, "the pipeline is closed")
            self._failed.discard(component)
            if component not in self._networks:
                self._networks[component] = self._open_network(component)
            return self._networks[component]

    def _open_ahead(self, components: Sequence[str]) -> None:
        for component in components:
            if self._locks[component].locked():
                continue  # the caller is at it
            try:
                self._opened(component)
            except Exception:  # the caller opens it again, to meet the same in its own thread
                self._failed.add(component)

    def _close_but(self, spared: str | None = None) -> None:
        for component, lock in self._locks.items():
            with lock:
                if component != spared and component in self._networks:
                    self._networks.pop(component).close()


class OneOpen(AllOpen):
    """A network is closed before another is opened; callers wait for each other's."""

    def __init__(self, open_network: Callable[[str], Network]) -> None:
        super().__init__(open_network)
        self._turn = threading.Lock()

    @contextmanager
    def use(self, component: str) -> Iterator[Network]:
        """The network, the only one open meanwhile; raises NetworkError."""
        with self._turn:
            self._close_but(component)
            yield self._opened(component)

    def expect(self, components: Sequence[str]) -> None:
        """Nothing is opened before its turn; if nothing is expected, nothing stays open."""
        if not components:
            with self._turn:
                self._close_but()

    def close(self) -> None:
        """Close it when it has done its work."""
        with self._turn:
            super().close()


def _cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
