"""The chat function: chats that stream, behind a Function URL."""

from lambda_stream import Function

from lambent.app import chat_app

handler = Function(asgi=chat_app())
