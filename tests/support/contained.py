"""Starts a command as a container's first process; run by `unshare`, in namespaces of its own.

    unshare --mount --pid --net --fork python contained.py '{"root": .., "mounts": ..}'

Python's standard library alone: this runs before anything is confined.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from typing import Any

_NO_NEW_PRIVILEGES, _DROP_CAPABILITY = 38, 24
_NUM_CAPABILITIES = 64
_SET_INTERFACE_FLAGS = 0x8914


def main(spec: dict[str, Any]) -> None:
    """Mount, confine, become the command.

    Args:
        spec: root: directory that becomes the root. mounts: [from, to], read-only, in order.
            writable: whether the root may be written; else the command is confined.
            uid: of a confined command; None: stays as it is. directory, environment, command.
    """
    root = spec["root"]
    _mount("--bind", root, root)
    for source, target in spec["mounts"]:
        _mount("--rbind", source, f"{root}/{target}")
        _mount("-o", "remount,bind,ro", f"{root}/{target}")
    _mount("--rbind", "/dev", f"{root}/dev")
    _mount("-t", "proc", "proc", f"{root}/proc")
    if not spec["writable"]:
        _mount("-o", "remount,bind,ro", root)
    _mount("-t", "tmpfs", "-o", "mode=1777,nosuid,nodev", "tmpfs", f"{root}/tmp")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        up = struct.pack("16sh", b"lo", 1)
        fcntl.ioctl(any_socket, _SET_INTERFACE_FLAGS, up)
    os.chroot(root)
    os.chdir(spec["directory"])
    if not spec["writable"]:
        _confine(spec["uid"])
    os.execvpe(spec["command"][0], spec["command"], spec["environment"])


def _confine(uid: int | None) -> None:
    """Become somebody else, and give up all that root, of whichever namespace, may do."""
    control = ctypes.CDLL(None).prctl
    for number in range(_NUM_CAPABILITIES):
        # Fails for those that the kernel does not have.
        control(_DROP_CAPABILITY, number, 0, 0, 0)
    control(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    if uid is not None:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
