"""Durable AI agents as functions on AWS Lambda."""

__version__ = "0.1.0"
