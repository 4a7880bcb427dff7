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

_NO_NEW_PRIVILEGES = 38
_SET_INTERFACE_FLAGS = 0x8914


def main(spec: dict[str, Any]) -> None:
    """Mount, confine, become the command.

    Args:
        spec: root: directory that becomes the root. mounts: [from, to], read-only, in order.
            writable: whether the root may be written. uid: of the command; None: stays as it is.
            directory, environment, command.
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
    if spec["uid"] is not None:
        os.setgroups([])
        os.setgid(spec["uid"])
        os.setuid(spec["uid"])
        ctypes.CDLL(None).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    os.execvpe(spec["command"][0], spec["command"], spec["environment"])


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
