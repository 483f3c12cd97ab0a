"""`Token`: what one MCP server is told, out of the secret that holds the tokens of all."""

from __future__ import annotations

from lambent.rotation import RotatingSecret
from lambent.setting_values import tokens_of


class Token:
    """Empty where the server needs none."""

    def __init__(self, server: str, tokens: RotatingSecret) -> None:
        self._server = server
        self._tokens = tokens

    @property
    def value(self) -> str:
        """As known now. A rotated secret that cannot be read counts as none."""
        try:
            return tokens_of(self._tokens.value).get(self._server, "")
        except ValueError:
            return ""

    async def renew(self, refused: str) -> bool:
        """Whether there is another one than the one that was refused."""
        if self.value != refused:
            return True
        await self._tokens.renew(self._tokens.value)
        return self.value != refused
