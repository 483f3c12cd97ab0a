"""Says which function answers which path: what a CDN's behaviours say on AWS."""

from fnmatch import fnmatchcase

CHAT_FUNCTION = "chat"
GATEWAY_FUNCTION = "gateway"

# CloudFront path patterns: `*` stands for any number of characters, `/` among them.
CHAT_PATHS = (
    "/chat",
    "/chat/*",
    "/v1/*",
    "/agents",
    "/health",
    "/runs/*/events",
    "/live/*",
)
"""Paths that stream. Every other path belongs to the gateway."""


def route(path: str) -> str:
    """The short name of the function that answers `path`."""
    if any(fnmatchcase(path, pattern) for pattern in CHAT_PATHS):
        return CHAT_FUNCTION
    return GATEWAY_FUNCTION
