"""A target with every fault that the suite must find, to test the suite itself."""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from pathlib import Path

from lcmcore.errors import LcmError
from tests.fuzz.items import Item
from tests.fuzz.targets import Fault, Target

FAULTS = {
    "fine": None,
    "refused": None,
    "raises": "KeyError: 'x'",
    "wrong": "Fault: wrong",
    "writes": "open .*canary/new",
    "writes below python": "changed .*canary/old",
    "removes": "os.remove .*canary/secret",
    "changes the item": "open .*item/order",
    "starts": "subprocess.Popen",
    "hogs": "took more than 1024 MiB",
    "hogs and hides it": "took more than 1024 MiB",
    "spins": r"took \d\.\d s",
    "crashes": "the process ended with -6",
    "hangs": "no answer for 15 s",
}


def check(folder: Path) -> None:
    """Do what the file says."""
    order = (folder / "order").read_text()
    canary = folder.with_name("canary")
    if order == "refused":
        raise LcmError("no")
    if order == "raises":
        raise KeyError("x")
    if order == "wrong":
        raise Fault("wrong")
    if order == "writes":
        (canary / "new").touch()
    if order == "writes below python":
        ctypes.CDLL(None).creat(os.fsencode(canary / "old"), 0o600)
    if order == "removes":
        (canary / "secret").unlink()
    if order == "changes the item":
        (folder / "order").write_text("x")
    if order == "starts":
        subprocess.run(["git", "status"], check=False)
    if order.startswith("hogs"):
        _hog(hide=order != "hogs")
    end = time.process_time() + 2.5
    while order == "spins" and time.process_time() < end:
        pass
    if order == "crashes":
        os.abort()
    while order == "hangs":
        time.sleep(1)


def _hog(hide: bool) -> None:
    try:
        bytearray(1100 * 2**20)
    except MemoryError as error:
        if hide:
            raise LcmError("it did not work") from error
        raise


def items() -> list[Item]:
    """One for each fault."""
    return [{"order": name.encode()} for name in FAULTS]


PLANTED = {"planted": Target(check, items, links=False)}
