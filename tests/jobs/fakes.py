"""Networks that a test steers from outside, by files in a folder; they cross process boundaries."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lcmcore.fake import FakeRuntime


@dataclass(frozen=True)
class SteeredUnet:
    """Predicts nothing, after it has waited for `hold` to go, or has died of a `die` file."""

    folder: Path

    def __call__(self, sample, **_):
        with (self.folder / f"{os.getpid()}.runs").open("ab") as file:
            file.write(b".")
            run = file.tell()
        for order in sorted(self.folder.glob("die*")):
            order.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        while self._is_held(run):
            time.sleep(0.005)
        return np.zeros_like(sample)

    def _is_held(self, run):
        try:
            return run > int((self.folder / "hold").read_text() or 0)
        except FileNotFoundError:
            return False


class Steering:
    """The test's side of it."""

    def __init__(self, folder):
        self.folder = folder
        self.runtime = FakeRuntime(unet=SteeredUnet(folder))

    def hold(self, after=0):
        """Each process waits in its unet, once this has run `after` times."""
        (self.folder / "hold").write_text(f"{after}")

    def release(self):
        (self.folder / "hold").unlink()

    def kill(self, times=1):
        for number in range(times):
            (self.folder / f"die{number}").touch()

    def pids(self):
        """The processes whose unet has run."""
        return {int(path.stem) for path in self.folder.glob("*.runs")}

    def wait_for_runs(self, count):
        """Until so many runs of all processes have begun; the last may be held."""

        def runs():
            return sum(path.stat().st_size for path in self.folder.glob("*.runs"))

        wait_for(lambda: runs() >= count)


def wait_for(condition, seconds=30):
    """Wait until something that must come has come; the limit only ends a hanging test."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


def children(parent):
    """State letters of a process's children by pid, without multiprocessing's own helper."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, ppid = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue  # it has just gone
        if int(ppid) == parent and b"resource_tracker" not in command:
            found[int(folder.name)] = state
    return found


def alive(pid):
    """Whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
