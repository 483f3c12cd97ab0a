"""The stores and models of one machine: Postgres, MongoDB-compatible, Ollama-API servers."""

from local.services.model import ModelHost, ModelServer
from local.services.mongo import Mongo, MongoHost
from local.services.ollama import Ollama
from local.services.postgres import Postgres, PostgresHost
from local.services.process import ServiceError
from local.services.script import Fault, Reply
from local.services.scripted import Recorded, ScriptedModel

__all__ = [
    "Fault",
    "ModelHost",
    "ModelServer",
    "Mongo",
    "MongoHost",
    "Ollama",
    "Postgres",
    "PostgresHost",
    "Recorded",
    "Reply",
    "ScriptedModel",
    "ServiceError",
]
