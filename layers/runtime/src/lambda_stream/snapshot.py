"""SnapStart: hooks before the snapshot, the wait for the restore, hooks after it."""

from __future__ import annotations

from lambda_stream.address import Address, call_blocking
from lambda_stream.failure import RuntimeFault

_RESTORE = "/2018-06-01/runtime/restore"


def before_snapshot() -> None:
    """Run the hooks registered through snapshot_restore_py, the last first."""
    try:
        from snapshot_restore_py import get_before_snapshot
    except ImportError:
        return
    hooks = get_before_snapshot()
    while hooks:
        function, arguments, named = hooks.pop()
        function(*arguments, **named)


def wait_for_restore(address: Address) -> None:
    """Tell Lambda that the snapshot may be taken; returns in the restored process."""
    answer = call_blocking(address, address.request("GET", f"{_RESTORE}/next"), timeout_s=None)
    if answer is None or answer.status != 200:
        said = "nothing" if answer is None else answer.status
        raise RuntimeFault("Runtime.BeforeSnapshotError", f"/restore/next answered {said}")


def after_restore() -> None:
    """Run the hooks registered through snapshot_restore_py, in order."""
    try:
        from snapshot_restore_py import get_after_restore
    except ImportError:
        return
    for function, arguments, named in get_after_restore():
        function(*arguments, **named)
