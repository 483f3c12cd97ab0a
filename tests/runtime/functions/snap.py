"""Registers snapshot hooks and says in which order they ran."""

import os

from snapshot_restore_py import register_after_restore, register_before_snapshot

ORDER = []


def _before(name):
    ORDER.append(name)
    if os.environ.get("FAIL") == "before":
        raise ValueError("before fails")


def _after(name):
    ORDER.append(name)
    if os.environ.get("FAIL") == "after":
        raise ValueError("after fails")


register_before_snapshot(_before, "b1")
register_before_snapshot(_before, "b2")
register_after_restore(_after, "a1")
register_after_restore(_after, "a2")


def handler(event, context):
    return ORDER
