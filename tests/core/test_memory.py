"""How much memory there is, by made-up cgroups, and giving freed memory back."""

import platform
from pathlib import Path

import numpy as np
import pytest

from lcmcore.util import memory

GB = 10**9


def cgroup(tmp_path, monkeypatch, membership, folder, files):
    (tmp_path / "membership").write_text(membership)
    place = tmp_path / "cgroups" / folder
    place.mkdir(parents=True)
    for name, value in files.items():
        (place / name).write_text(f"{value}\n")
    monkeypatch.setattr(memory, "_MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "cgroups")


STAT = f"anon {GB}\ninactive_file {GB // 2}\nactive_file {GB // 2}"


def second(limit):
    return {"memory.max": limit, "memory.current": 2 * GB, "memory.stat": STAT}


@pytest.mark.parametrize("folder", ["", "batch/job"])
def test_a_limit_of_version_2_is_seen_at_the_root_and_below(tmp_path, monkeypatch, folder):
    cgroup(tmp_path, monkeypatch, "0::/batch/job\n", folder, second(int(2.5 * GB)))
    assert memory.available_bytes() == int(1.5 * GB)  # page cache can be had


def test_a_limit_of_version_1_is_seen(tmp_path, monkeypatch):
    files = {
        "memory.limit_in_bytes": 2 * GB,
        "memory.usage_in_bytes": GB,
        "memory.stat": "cache 0\ninactive_file 0\nactive_file 0",
    }
    membership = "4:cpu,memory:/job\n0::/\n"
    cgroup(tmp_path, monkeypatch, membership, "memory/job", files)
    assert memory.available_bytes() == GB


def test_a_colon_in_the_name_of_a_group(tmp_path, monkeypatch):
    cgroup(tmp_path, monkeypatch, "0::/batch:1/job\n", "batch:1/job", second(int(2.5 * GB)))
    assert memory.available_bytes() == int(1.5 * GB)


def test_no_limit_is_what_the_machine_has(tmp_path, monkeypatch):
    cgroup(tmp_path, monkeypatch, "0::/\n", "", second("max"))
    without = memory.available_bytes()
    monkeypatch.setattr(memory, "_MEMBERSHIP", Path("/nowhere"))
    assert without == pytest.approx(memory.available_bytes(), rel=0.2)


def test_the_peak_of_this_process_is_known():
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    assert resident * 0.9 <= memory.peak_resident_bytes() < 2**40


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="others keep less")
def test_freed_memory_is_given_back():
    """Arrays too small for pages of their own: those that stay hold the others' pages."""
    arrays = [np.ones(2**12, np.uint8) for _ in range(20_000)]
    kept = arrays[::100]
    before = memory.anonymous_bytes()
    del arrays
    memory.return_freed()
    assert before - memory.anonymous_bytes() > 40e6
    assert all(array.all() for array in kept)
