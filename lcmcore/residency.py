"""Which networks are in memory: all that were used, or one at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from lcmcore.bundle import COMPONENTS
from lcmcore.errors import NetworkError
from lcmcore.runtime import Network
from lcmcore.util.cpu import usable_cores


class KeepLoaded:
    """Networks stay open; those that a call will need are opened while it works with others."""

    def __init__(self, open_network: Callable[[str], Network]) -> None:
        self._open_network = open_network
        self._networks: dict[str, Network] = {}
        self._failed: set[str] = set()
        self._locks = {component: threading.Lock() for component in COMPONENTS}
        self._opener: threading.Thread | None = None
        self._opener_lock = threading.Lock()  # of the next two, and for starting the thread
        self._pending: list[str] = []  # what the thread is to open
        self._opening_ahead = False
        self._closed = False
        self._last: Network | None = None

    @contextmanager
    def use(self, component: str) -> Iterator[Network]:
        """The network, opened if it is not; raises NetworkError."""
        network, last = self._opened(component), self._last
        if last is not None and last is not network:
            last.trim()
        self._last = network
        yield network

    def prefetch(self, components: Sequence[str]) -> None:
        """Open them in a thread, or here if there is no core to spare for that.

        What fails in the thread is raised by `raise_failures`, and by `use`.
        """
        if len(usable_cores()) == 1:
            for component in components:
                self._opened(component)
            return
        with self._opener_lock:
            for component in components:
                if component not in self._networks and component not in self._pending:
                    self._pending.append(component)
            if self._pending and not self._opening_ahead and not self._closed:
                if self._opener is not None:
                    self._opener.join()  # it has nothing left to do
                self._opening_ahead = True
                self._opener = threading.Thread(target=self._open_ahead)
                self._opener.start()

    def raise_failures(self, components: Sequence[str]) -> None:
        """Raise NetworkError if one of them failed to open in the thread."""
        for component in components:
            if component in self._failed:
                self._opened(component)  # once more, to meet the error here

    def release(self) -> None:
        """A call has ended; networks stay."""

    def close(self) -> None:
        """Close all, after the one that is being opened; none can be used any more."""
        with self._opener_lock:
            self._closed = True
            self._pending.clear()
        if self._opener is not None:
            self._opener.join()
        self._close_all_but()

    def _opened(self, component: str) -> Network:
        with self._locks[component]:
            if self._closed:
                raise NetworkError(component, "the pipeline is closed")
            self._failed.discard(component)
            if component not in self._networks:
                self._networks[component] = self._open_network(component)
            return self._networks[component]

    def _open_ahead(self) -> None:
        """The thread: opens what is pending, and ends."""
        while (component := self._next_pending()) is not None:
            if self._locks[component].locked():
                continue  # a caller is opening it
            try:
                self._opened(component)
            except Exception:  # `raise_failures` meets the same in the caller's thread
                self._failed.add(component)

    def _next_pending(self) -> str | None:
        with self._opener_lock:
            if self._pending:
                return self._pending.pop(0)
            self._opening_ahead = False
            return None

    def _close_all_but(self, spared: str | None = None) -> None:
        with ExitStack() as closing:  # all of them, even if one fails to
            for component, lock in self._locks.items():
                with lock:
                    if component != spared and component in self._networks:
                        closing.callback(self._networks.pop(component).close)


class OneAtATime(KeepLoaded):
    """A network is closed before another is opened; threads wait for each other's."""

    def __init__(self, open_network: Callable[[str], Network]) -> None:
        super().__init__(open_network)
        self._turn = threading.Lock()

    @contextmanager
    def use(self, component: str) -> Iterator[Network]:
        """The network, the only one open meanwhile; raises NetworkError."""
        with self._turn:
            self._close_all_but(component)
            yield self._opened(component)

    def prefetch(self, components: Sequence[str]) -> None:
        """Nothing is opened before it is used."""

    def release(self) -> None:
        """A call has ended: nothing stays open."""
        with self._turn:
            self._close_all_but()

    def close(self) -> None:
        """Close it when it has done its work."""
        with self._turn:
            super().close()
