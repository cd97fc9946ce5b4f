"""Starts a command that dies with its parent: `die_with_parent.py PARENT_PID COMMAND [ARGUMENT…]`.

A small program of its own rather than a `preexec_fn`, which is unsafe in a process with threads.
Linux only; elsewhere the command merely runs.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
CANNOT_EXECUTE = 127


def main(arguments: list[str]) -> int:
    """Become the command; return only when that fails."""
    parent, command = int(arguments[0]), arguments[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before that was set
            return CANNOT_EXECUTE
    try:
        os.execvp(command[0], command)  # noqa: S606 - the deployment names the command
    except OSError as error:
        sys.stderr.write(f"cannot execute {command[0]}: {error.strerror}\n")
    return CANNOT_EXECUTE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
