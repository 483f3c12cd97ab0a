"""The buffered Function URL: runs, events, keys and administration, through Mangum."""

from __future__ import annotations

from typing import Any

from mangum import Mangum

from lambent.app import gateway_app

# "off": Mangum's default runs startup and shutdown at every single request.
handler: Any = Mangum(gateway_app(), lifespan="off")
