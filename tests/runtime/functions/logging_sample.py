"""Writes log lines of each kind."""

import logging


def handler(event, context):
    logging.getLogger("shop").info("sold %d", 3, extra={"order": "o-1"})
    logging.getLogger("shop").warning("two\nlines")
    print("printed")
    try:
        raise ValueError("inner")
    except ValueError:
        logging.getLogger("shop").exception("failed")
    raise LookupError("the handler's own")
