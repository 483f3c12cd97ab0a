"""Durable AI agents as functions on AWS Lambda."""
