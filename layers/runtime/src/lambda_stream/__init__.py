"""Streaming ASGI runtime for AWS Lambda's managed Python runtimes."""

from lambda_stream.function import Function, background, on_shutdown

__version__ = "0.1.0"
__all__ = ["Function", "background", "on_shutdown"]
