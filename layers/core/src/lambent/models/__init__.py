"""Calls to the model server: Ollama's native API, streamed, bounded, its failures sorted.

The duty ends at the wire: who may call, how many at once and what a failure means to the shared
breaker is decided in `admission`; which model and which messages in `agents` and `chat`.
"""
