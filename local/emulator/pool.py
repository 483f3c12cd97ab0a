"""Keeps as many environments of one function as its requests need, within its limit."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

from local.emulator.environment import Environment, State
from local.emulator.reply import Invocation
from local.emulator.settings import EmulatorSettings
from local.emulator.template import Function

log = logging.getLogger("lambent.local.pool")

# An environment that has just answered asks for the next event within a moment, unless it does
# something in the background: until then it is not worth starting another.
_FINISHING_S = 0.1


class Throttled(Exception):
    """No environment for this request; `reserved` tells the template's limit from ours."""

    def __init__(self, *, reserved: bool) -> None:
        super().__init__("Rate Exceeded.")
        self.reserved = reserved


class Pool:
    """`submit` gives a request to whichever comes first: a freed or a new environment."""

    def __init__(
        self,
        function: Function,
        settings: EmulatorSettings,
        *,
        start: Callable[[Callable[[Environment], None]], Environment],
        on_change: Callable[[], None],
    ) -> None:
        self.function = function
        self._settings = settings
        self._start = start
        self._on_change = on_change
        self._environments: list[Environment] = []
        self._urgent: deque[Invocation] = deque()
        self._patient: deque[Invocation] = deque()
        self._stopping: set[asyncio.Task[None]] = set()
        self._draining = False
        self._closed = False

    @property
    def limit(self) -> int:
        reserved = self.function.reserved_concurrency
        most = self._settings.max_environments
        return most if reserved is None else min(reserved, most)

    def pids(self) -> list[int]:
        return [env.pid for env in self._environments if env.pid is not None and env.alive]

    @property
    def busy(self) -> bool:
        """Work is under way, or about to be; once it drains, an environment that is stopping."""
        at_work = {State.BUSY, State.STOPPING} if self._draining else {State.BUSY}
        return bool(self._urgent) or any(env.state in at_work for env in self._environments)

    def submit(self, invocation: Invocation, *, patient: bool = False) -> None:
        """Queue it for the next free environment. A caller that is not patient may be refused:
        beyond the reserved concurrency at once, beyond this machine's limit after a while."""
        reserved = self.function.reserved_concurrency
        if reserved == 0 or self._closed:
            raise Throttled(reserved=True)
        if patient:
            self._patient.append(invocation)
        else:
            in_progress = len(self._urgent) + sum(
                env.state is State.BUSY and env.answered_for_s is None for env in self._environments
            )
            if reserved is not None and in_progress >= self.limit == reserved:
                raise Throttled(reserved=True)
            self._urgent.append(invocation)
        self._work()

    async def admitted(self, invocation: Invocation) -> None:
        """Wait until the request has an environment or an answer; `Throttled` when it takes too
        long because this machine's limit is reached."""
        if invocation not in self._urgent:
            return
        patience_s = self._settings.queue_s + self._settings.init_s
        deadline_s = time.monotonic() + patience_s
        while invocation in self._urgent:
            if time.monotonic() > deadline_s:
                self.withdraw(invocation)
                raise Throttled(reserved=False)
            if invocation.reply.abandoned:
                self.withdraw(invocation)
                return
            await asyncio.wait({invocation.reply.head}, timeout=0.25)

    def withdraw(self, invocation: Invocation) -> bool:
        """Take back a request that no environment has yet; False if one has."""
        for queue in (self._urgent, self._patient):
            if invocation in queue:
                queue.remove(invocation)
                return True
        return False

    def warm(self, count: int = 1) -> None:
        """Start environments ahead of requests, up to `count` in all."""
        while len(self._live()) < min(count, self.limit):
            self._add()

    async def warmed(self) -> bool:
        """Wait for the environments that are starting; False if one of them failed."""
        started = await asyncio.gather(*(env.started for env in list(self._environments)))
        return all(started)

    def scale_in(self) -> None:
        """Stop what had nothing to do for long."""
        oldest_s = time.monotonic() - self._settings.idle_s
        for env in list(self._environments):
            if env.state is State.IDLE and env.idle_since_s <= oldest_s:
                self._stop(env)

    def recycle(self) -> None:
        """The code changed: idle environments stop now, others after their invocation.

        One takes the place of those that were idle: what is wrong with the code shows at once.
        """
        unused = [env for env in self._environments if env.state in (State.IDLE, State.STARTING)]
        for env in self._environments:
            env.outdated = True
        for env in unused:
            self._stop(env)
        if unused:
            self._add()
        self._work()

    def drain(self) -> None:
        """Start nothing that can wait, and tell busy environments to stop; `busy` until done."""
        self._draining = True
        for env in self._environments:
            if env.drains:
                self._stop(env, drain=True)

    async def close(self) -> None:
        """Refuse new requests and stop everything."""
        self._closed = True
        self._urgent.clear()
        self._patient.clear()
        await asyncio.gather(*(env.stop() for env in list(self._environments)))

    def _live(self) -> list[Environment]:
        return [env for env in self._environments if env.alive]

    def _work(self) -> None:
        """Hand out requests; start environments for what is left."""
        if self._closed:
            return
        # The one that was used last comes first, so that the others can be scaled in.
        idle = sorted(
            (env for env in self._environments if env.state is State.IDLE),
            key=lambda env: env.idle_since_s,
        )
        while idle and (invocation := self._pop()) is not None:
            idle.pop().assign(invocation)
        waiting = len(self._urgent) + (0 if self._draining else len(self._patient))
        starting = sum(env.state is State.STARTING for env in self._environments)
        finishing = sum(
            env.answered_for_s is not None and env.answered_for_s < _FINISHING_S
            for env in self._environments
        )
        if waiting and finishing:
            asyncio.get_running_loop().call_later(_FINISHING_S, self._work)
        for _ in range(min(waiting - starting - finishing, self.limit - len(self._live()))):
            self._add()

    def _pop(self) -> Invocation | None:
        for queue in (self._urgent,) if self._draining else (self._urgent, self._patient):
            while queue:
                invocation = queue.popleft()
                if not invocation.reply.abandoned and not invocation.reply.ended:
                    return invocation
        return None

    def _add(self) -> None:
        self._environments.append(self._start(self._changed))
        self._on_change()

    def _stop(self, env: Environment, *, drain: bool = False) -> None:
        task = asyncio.get_running_loop().create_task(env.stop(drain=drain))
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    def _changed(self, env: Environment) -> None:
        if env.state is State.GONE and env in self._environments:
            self._environments.remove(env)
            if env.init_failure is not None:
                self._start_failed(env)
        self._on_change()
        if env.state in (State.IDLE, State.STOPPING, State.GONE):
            self._work()

    def _start_failed(self, env: Environment) -> None:
        """The request that waits longest gets the error, unless another start can still serve it.

        A start that died without a word is tried once more for it, as Lambda does.
        """
        assert env.init_failure is not None
        starting = sum(other.state is State.STARTING for other in self._environments)
        waiting = self._urgent or self._patient
        if not waiting or len(self._urgent) + len(self._patient) <= starting:
            return
        first = waiting[0]
        if env.crashed_in_init and first.init_crashes == 0:
            first.init_crashes += 1
            return
        waiting.popleft()
        first.reply.end(env.init_failure)
