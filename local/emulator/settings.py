"""What can be set about the emulator, with the defaults of a person's machine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class EmulatorSettings:
    """`overrides` win over the template's environment values, for declared variables only."""

    log_folder: Path
    host: str = "127.0.0.1"
    invoke_port: int = 0
    max_environments: int = 10
    """Environments a function at most; a function's reserved concurrency may be lower."""
    queue_s: float = 30.0
    """How long a request waits when this machine's limit, not the template's, is reached."""
    idle_s: float = 300.0
    """An environment that had nothing to do for so long is scaled in."""
    grace_s: float = 0.5
    """Between SIGTERM and SIGKILL; AWS gives an internal extension about as much."""
    drain_s: float = 0.0
    """How long a streamed answer may go on after the SIGTERM of a drain: a person's machine can
    wait where Lambda does not. It comes before `grace_s`."""
    init_s: float = 20.0
    """Start-up time before the function's own timeout begins to count."""
    retry_delays_s: tuple[float, ...] = (60.0, 120.0)
    """Before the first and the second retry of a failed asynchronous invoke."""
    overrides: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)
    """Given to every function beside what the template declares."""
