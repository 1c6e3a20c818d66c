"""Several instances of one network, e.g. one on each core of an NPU, that run side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from queue import SimpleQueue

from lcmcore.errors import LcmError, NetworkError
from lcmcore.runtime import Network, TensorSpec, check_outputs
from lcmcore.util.arrays import Array


class Instances:
    """Opened networks of one file, alike but for where they run.

    Each has a label, e.g. "instance 2 of 3 (core_mask 1)", by which errors name it; "" where there
    is only one. Calls from several threads share them, and none runs twice at a time.
    """

    def __init__(self, component: str) -> None:
        self._component = component
        self._networks: list[tuple[str, Network]] = []
        self._idle: SimpleQueue[tuple[str, Network]] = SimpleQueue()

    def open(self, label: str, opener: Callable[[], Network]) -> Network:
        """Open one more; if that fails, all are closed, and the error is raised."""
        try:
            with self._named(label):
                network = opener()
        except BaseException:
            with suppress(LcmError):  # the first error tells more
                self.close()
            raise
        self._networks.append((label, network))
        self._idle.put((label, network))
        return network

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """What each takes."""
        return self._networks[0][1].inputs

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """What each returns."""
        return self._networks[0][1].outputs

    def run_each(self, parts: Sequence[Mapping[str, Array]]) -> Iterator[dict[str, Array]]:
        """The outputs for each of `parts`, checked, in their order.

        After a NetworkError, which is raised for the first of them that fails, none is begun.
        """
        count = min(len(parts), len(self._networks))
        if count == 1:
            yield from map(self._run, parts)
            return
        from concurrent.futures import ThreadPoolExecutor  # most calls need none

        with ThreadPoolExecutor(count) as threads:
            yield from threads.map(self._run, parts)

    def close(self) -> None:
        """Close all, even if one fails to; raises NetworkError then."""
        with ExitStack() as closing:
            for label, network in self._networks:
                closing.callback(self._close, label, network)

    def trim(self) -> None:
        """Trim all."""
        for _, network in self._networks:
            network.trim()

    def _close(self, label: str, network: Network) -> None:
        with self._named(label):
            network.close()

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        label, network = self._idle.get()
        try:
            with self._named(label):
                outputs = network.run(inputs)
                check_outputs(self._component, network.outputs, outputs)
        finally:
            self._idle.put((label, network))
        return outputs

    @contextmanager
    def _named(self, label: str) -> Iterator[None]:
        """Name the instance in a NetworkError."""
        try:
            yield
        except NetworkError as error:
            if not label:
                raise
            message = str(error).removeprefix(f"{self._component}: ")
            raise NetworkError(self._component, f"{label}: {message}") from error
