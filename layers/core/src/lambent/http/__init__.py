"""The HTTP edge: bodies in, problem documents, JSON and event streams out."""
