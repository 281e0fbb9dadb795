"""Ends what a killed driver leaves behind: run as a script by ``tune.run.ray_folder``, standard library only.

Its standard input is a pipe that the driver holds. When the driver dies, however that happens, the pipe is closed: the
processes that carry the session's mark in their environment are killed and the session's folder is deleted.

Usage: watchdog.py MARK FOLDER
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time

ROUNDS = 5  # processes may start others while they are being killed


def marked_processes(mark: str) -> list[int]:
    """Processes of this user with ``mark`` (``NAME=value``) in their environment; empty without a /proc."""
    found = []
    wanted = mark.encode()
    try:
        entries = os.listdir("/proc")
    except OSError:
        return []
    for entry in entries:
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                if wanted in file.read().split(b"\0"):
                    found.append(int(entry))
        except OSError:  # it ended, or belongs to somebody else
            continue
    return found


def main(mark: str, folder: str) -> None:
    """Wait for the driver's end, then clean up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while os.read(0, 4096):
        pass
    for _ in range(ROUNDS):
        left = marked_processes(mark)
        if not left:
            break
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        time.sleep(0.2)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
