"""Durable AI agents as functions on AWS Lambda."""

import sys

__version__ = "0.1.0"

# The MongoDB driver loads `cryptography` wherever it is installed (the MCP package brings it), to
# find that the rest of what it would do with it is missing: a third of its import, for nothing.
sys.modules.setdefault("pymongo.pyopenssl_context", None)  # type: ignore[arg-type]
