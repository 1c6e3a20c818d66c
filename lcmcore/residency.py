"""Which of the networks are open: all that were used, or one at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from lcmcore.bundle import COMPONENTS
from lcmcore.errors import NetworkError
from lcmcore.runtime import Network

Open = Callable[[str], Network]  # by component; raises NetworkError


class AllOpen:
    """Networks stay open; those that a call will need are opened while it works with others."""

    def __init__(self, open_network: Open) -> None:
        self._open_network = open_network
        self._networks: dict[str, Network] = {}
        self._failed: set[str] = set()
        self._locks = {component: threading.Lock() for component in COMPONENTS}
        self._reader: threading.Thread | None = None
        self._reader_lock = threading.Lock()
        self._closed = False

    @contextmanager
    def use(self, component: str) -> Iterator[Network]:
        """The network, opened if it is not; raises NetworkError."""
        yield self._opened(component)

    def expect(self, components: Iterable[str]) -> None:
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

    def rest(self) -> None:
        """Everything stays open between calls."""

    def close(self) -> None:
        """Close all, when the thread has opened what it was at; none can be used any more."""
        with self._reader_lock:
            self._closed = True
        if self._reader is not None:
            self._reader.join()
        for component, lock in self._locks.items():
            with lock:
                network = self._networks.pop(component, None)
                if network is not None:
                    network.close()

    def _opened(self, component: str) -> Network:
        with self._locks[component]:
            if self._closed:
                raise NetworkError(component, "the pipeline is closed")
            self._failed.discard(component)
            if component not in self._networks:
                self._networks[component] = self._open_network(component)
            return self._networks[component]

    def _open_ahead(self, components: Iterable[str]) -> None:
        for component in components:
            if self._locks[component].locked():
                continue  # the caller is at it
            try:
                self._opened(component)
            except Exception:  # the caller opens it again, to meet the same in its own thread
                self._failed.add(component)


class OneOpen:
    """A network is closed before another is opened; others wait while one works."""

    def __init__(self, open_network: Open) -> None:
        self._open_network = open_network
        self._current: tuple[str, Network] | None = None
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def use(self, component: str) -> Iterator[Network]:
        """The network, the only one open meanwhile; raises NetworkError."""
        with self._lock:
            if self._closed:
                raise NetworkError(component, "the pipeline is closed")
            if self._current is None or self._current[0] != component:
                self._close_current()
                self._current = component, self._open_network(component)
            yield self._current[1]

    def expect(self, components: Iterable[str]) -> None:
        """Nothing is opened before its turn."""

    def rest(self) -> None:
        """Close the network that is open, until the next call."""
        with self._lock:
            self._close_current()

    def close(self) -> None:
        """Close it, when it has done its work; none can be used any more."""
        with self._lock:
            self._closed = True
            self._close_current()

    def _close_current(self) -> None:
        if self._current is not None:
            self._current[1].close()
            self._current = None


def _cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
