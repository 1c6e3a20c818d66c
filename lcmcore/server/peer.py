"""Whose process is at the other end of a connection within this machine: Linux says so.

References: sock_diag(7); https://www.kernel.org/doc/html/latest/networking/proc_net_tcp.html
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

Address: TypeAlias = "tuple[str, int]"  # an IP address, and a port

_ROOT = 0
_TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
_MAPPED = b"\0" * 10 + b"\xff\xff"  # before an IPv4 address, in a socket of IPv6

# linux/netlink.h, sock_diag.h, inet_diag.h
_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _REQUEST = 4, 20, 1
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ASKED = struct.Struct("=BBBxI")  # family, protocol, extensions, states
_ENDS = struct.Struct("!HH16s16s")  # ports and addresses, the local first; then:
_ANY_COOKIE = struct.pack("=III", 0, 2**32 - 1, 2**32 - 1)  # of any interface
_ANSWER = struct.Struct("=4x48s3III")  # ends, interface and cookie; timer, queues; uid, inode
_STATES = 2**32 - 1


def is_known() -> bool:
    """Whether the kernel tells here to whom a connection belongs."""
    return os.access(_TABLES[0], os.R_OK)


def is_own(client: Address, server: Address) -> bool:
    """Whether a connection from `client` to `server` was made by this process's user, or by root.

    Not so if nothing says whose it is.
    """
    return owner(client, server) in (_ROOT, os.geteuid())


def owner(client: Address, server: Address) -> int | None:
    """The user id of a connection's other end; None where nothing says so, or it is closed."""
    try:
        ends = [(_packed(host), port) for host, port in (client, server)]
    except ValueError:
        return None
    with suppress(OSError, struct.error):
        found = _ask(*ends)
        if found is not None:
            return found
    for path in _TABLES:  # slower by far; for kernels without sock_diag
        with suppress(OSError):
            found = owner_in(path.read_bytes(), *ends)
            if found is not None:
                return found
    return None


def owner_in(table: bytes, local: tuple[bytes, int], remote: tuple[bytes, int]) -> int | None:
    """The user id in a table of sockets in /proc/net, by the packed addresses of its ends."""
    for prefix in (b"", _MAPPED):
        ends = " ".join(_in_table(prefix + packed, port) for packed, port in (local, remote))
        _, found, rest = table.partition(f" {ends} ".encode())
        if found:
            _state, _queues, _timer, _retries, uid, _timeout, inode, *_ = rest.split(maxsplit=7)
            return _owner(int(uid), int(inode))
    return None


def _ask(local: tuple[bytes, int], remote: tuple[bytes, int]) -> int | None:
    """As `owner_in`, of that one socket; raises OSError."""
    family = socket.AF_INET if len(local[0]) == 4 else socket.AF_INET6
    ends = _ENDS.pack(local[1], remote[1], local[0], remote[0])
    body = _ASKED.pack(family, socket.IPPROTO_TCP, 0, _STATES) + ends + _ANY_COOKIE
    header = _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _REQUEST, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
        kernel.send(header + body)
        answer = kernel.recv(4096)
    if _HEADER.unpack_from(answer)[1] != _SOCK_DIAG_BY_FAMILY:
        return None  # an error: there is none
    found, *_, uid, inode = _ANSWER.unpack_from(answer, _HEADER.size)
    mapped = _ENDS.pack(
        local[1], remote[1], *((_MAPPED + each[0])[:16] for each in (local, remote))
    )
    # Without that connection the kernel answers with a socket that listens at the local end.
    return _owner(uid, inode) if found.startswith((ends, mapped)) else None


def _owner(uid: int, inode: int) -> int | None:
    """A socket that its process has closed has no inode, and root's id, whosever it was."""
    return uid if inode else None


def _packed(host: str) -> bytes:
    """The bytes of an address, 4 of one of IPv4 in IPv6's form; raises ValueError for others."""
    ip = ipaddress.ip_address(host)
    return (getattr(ip, "ipv4_mapped", None) or ip).packed


def _in_table(packed: bytes, port: int) -> str:
    """An address as /proc/net has it: words of 32 bits in the machine's order."""
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"
