"""Every exception that lcmcore raises on purpose; each message is one line to act upon."""

from __future__ import annotations


class LcmError(Exception):
    """Base of all of them: `except lcmcore.LcmError` catches whatever went wrong."""


class ArgumentError(LcmError, ValueError):
    """An argument of a call is not what it may be."""


class ImageError(LcmError):
    """An init image cannot be read."""


class BundleError(LcmError):
    """A model directory, or a file in it, is missing or broken."""


class RuntimeUnavailableError(LcmError):
    """A runtime is unknown, not installed, or cannot work on this machine."""


class NetworkError(LcmError):
    """A network cannot be opened, got something that it does not take, or failed.

    `component` is text_encoder, unet, vae_encoder or vae_decoder; the message begins with it.
    """

    def __init__(self, component: str, message: str) -> None:
        super().__init__(f"{component}: {message}")
        self.component = component

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        """Rebuild from both arguments, so that the error crosses process boundaries."""
        return type(self), (self.component, str(self).removeprefix(f"{self.component}: "))


class OutputError(LcmError):
    """A picture cannot be written where it was asked for."""


class Cancelled(LcmError):  # noqa: N818 - an event, not a fault
    """A callback asked to stop."""


class WorkerDied(LcmError):  # noqa: N818 - as in Dask's KilledWorker
    """A worker's process ended in the middle of a job, and so did the one that tried it again."""


class DeadlineExceeded(LcmError):  # noqa: N818 - the usual name
    """A job was not done when its deadline came."""


class QueueFull(LcmError):  # noqa: N818 - as in the standard library's queue.Full
    """A pool has as many jobs waiting as it may; offer it again later."""


def first_line(error: BaseException) -> str:
    """The first non-empty line of a foreign exception, for quoting in a message of ours."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
