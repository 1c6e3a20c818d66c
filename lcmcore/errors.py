"""The exceptions of lcmcore. Each message is one line that says what is wrong and what to do."""

from __future__ import annotations


class LcmError(Exception):
    """Base class of all exceptions that lcmcore raises."""


class ArgumentError(LcmError, ValueError):
    """An argument has a wrong type or value."""


class ImageError(LcmError):
    """An init image cannot be read."""


class BundleError(LcmError):
    """A model directory, or a file in it, is missing or broken."""


class RuntimeUnavailableError(LcmError):
    """A runtime is unknown, not installed, or cannot work on this machine."""


class NetworkError(LcmError):
    """A network cannot be opened, got an unexpected input, or failed.

    `component` is text_encoder, unet, vae_encoder or vae_decoder; the message begins with it.
    """

    def __init__(self, component: str, message: str) -> None:
        super().__init__(f"{component}: {message}")
        self.component = component

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        """Rebuild from both arguments, so that the error crosses process boundaries."""
        return type(self), (self.component, str(self).removeprefix(f"{self.component}: "))


class OutputError(LcmError):
    """An output file or folder cannot be written."""


class Cancelled(LcmError):  # noqa: N818 - an event, not a fault
    """A callback asked to stop."""


class WorkerDied(LcmError):  # noqa: N818 - as in Dask's KilledWorker
    """A worker process died during a job, and so did the one that retried it."""


class DeadlineExceeded(LcmError):  # noqa: N818 - the usual name
    """A job was not done by its deadline."""


class QueueFull(LcmError):  # noqa: N818 - as in the standard library's queue.Full
    """The queue of a pool is full; submit the job again later."""


def first_line(error: BaseException) -> str:
    """The first non-empty line of a foreign exception, without "[Errno 2]", to quote it."""
    text = str(error)
    if isinstance(error, OSError):
        text = text.removeprefix(f"[Errno {error.errno}] ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def reason_of(error: OSError | ValueError) -> str:
    """Why a file could not be opened, without its name, for a message that begins with that."""
    return getattr(error, "strerror", None) or first_line(error)
