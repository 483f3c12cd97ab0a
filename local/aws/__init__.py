"""Builds, runs and measures what goes to AWS: layers, a Lambda base image, LocalStack."""
