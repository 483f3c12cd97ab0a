"""Looks up secrets that settings name instead of holding: in Secrets Manager or in SSM.

`secretsmanager:<id>` is the whole text of a secret, `secretsmanager:<id>#<key>` one value of its
JSON, `ssm:<name>` a parameter, decrypted. Anything else is the value itself. A reference is looked
up once an environment; `forget` lets the next look-up see a rotated value.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Final

from lambent.errors import ConfigError

_SECRETS_MANAGER: Final = "secretsmanager:"
_SSM: Final = "ssm:"


def is_reference(value: str) -> bool:
    """Whether the value names a secret rather than being one."""
    return value.startswith((_SECRETS_MANAGER, _SSM))


def resolve(value: str) -> str:
    """The secret that `value` names, or `value` itself.

    Raises `ConfigError` that says in one line which reference failed, and why.
    """
    return _looked_up(value) if is_reference(value) else value


def forget() -> bool:
    """Drop what was looked up, after a store refused it; False where there was nothing to drop."""
    known = _looked_up.cache_info().currsize > 0
    _looked_up.cache_clear()
    return known


@lru_cache(maxsize=32)
def _looked_up(reference: str) -> str:
    # boto3, which Lambda brings, costs 150 ms to import: only who keeps secrets there pays it.
    try:
        from aws_lambda_powertools.utilities import parameters
        from aws_lambda_powertools.utilities.parameters.exceptions import GetParameterError
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise ConfigError(f"{reference} cannot be read: boto3 is not installed") from error

    kind, _, name = reference.partition(":")
    limits = Config(connect_timeout=2, read_timeout=3, retries={"total_max_attempts": 2})
    try:
        if f"{kind}:" == _SSM:
            store = parameters.SSMProvider(boto_config=limits)
            return str(store.get(name, decrypt=True, force_fetch=True))
        secret_id, _, key = name.partition("#")
        secrets = parameters.SecretsProvider(boto_config=limits)
        text = str(secrets.get(secret_id, force_fetch=True))
    except (GetParameterError, BotoCoreError) as error:
        raise ConfigError(f"{reference} cannot be read: {_why(error)}") from error
    return _member(text, key, reference) if key else text


def _member(text: str, key: str, reference: str) -> str:
    try:
        found = json.loads(text)[key]
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{reference}: the secret is no JSON object with that key") from None
    if not isinstance(found, str) or not found:
        raise ConfigError(f"{reference}: the value of that key is no text")
    return found


def _why(error: BaseException) -> str:
    said = " ".join(str(error).split())
    if "AccessDenied" in said:
        return "the function may not; add its ARN to the parameter SecretArns or SsmParameterArns"
    if "ResourceNotFound" in said or "ParameterNotFound" in said:
        return "there is no such secret in this account and region"
    return said[:300]
