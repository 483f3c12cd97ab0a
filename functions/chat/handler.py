"""The chat function: chats that stream, behind a Function URL."""

from lambda_stream import Function, on_shutdown
from lambent.app import chat_app, stop_chats

handler = Function(asgi=chat_app())
on_shutdown(stop_chats)
