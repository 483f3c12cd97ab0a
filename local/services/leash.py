"""Becomes a command that ends with the process that asked for it.

Run as a script, before anything of ours is importable:
`python -I -S leash.py <signal> <parent pid> <uid>:<gid> -- command...` (`-:-` keeps the user).
A `preexec_fn` would run Python between fork and exec of a threaded parent; this runs after exec.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAPABILITY_VERSION_3 = 0x20080522
CAP_DAC_OVERRIDE = 1
MISSED_PARENT = 3


def drop_to(libc: ctypes.CDLL, uid: int, gid: int) -> None:
    """Give up root, all but the right to pass through folders that only root may enter.

    Postgres refuses to run as root, yet its program and data may lie under a closed home.
    """
    libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    mask = 1 << CAP_DAC_OVERRIDE
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)
    if libc.capset(header, data) == 0:
        libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0)


def main(arguments: list[str]) -> None:
    death_signal, parent_pid, user = arguments[:3]
    command = arguments[4:]
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    if user != "-:-":
        uid, gid = (int(part) for part in user.split(":"))
        if libc is None:
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
        else:
            drop_to(libc, uid, gid)
    if libc is not None:
        # A change of user clears the death signal, so it is set last.
        libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != int(parent_pid):
            sys.exit(MISSED_PARENT)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
