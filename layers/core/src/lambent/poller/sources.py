"""Names every kind of due documents that the poller goes round."""

from __future__ import annotations

from lambent.bus.transitions import DELIVERIES, EVENTS
from lambent.clock import Clock
from lambent.dispatch import Work
from lambent.due import Database, DueDocuments, DueKind
from lambent.engine.model import RUNS
from lambent.poller.generation import Nudges
from lambent.poller.source import Fleet, Source
from lambent.schedules.transitions import SCHEDULES
from lambent.settings import Settings


def all_sources(
    mongo: Database, settings: Settings, *, clock: Clock, nudges: Nudges
) -> list[Source]:
    """One source each; runs have a fleet of their own, all else shares that of `deliver`."""

    def source(work: Work, kind: DueKind, fleet: Fleet) -> Source:
        documents = DueDocuments(mongo, kind, clock=clock)
        return Source(work, documents, fleet=fleet, nudges=nudges, clock=clock)

    deliveries = Fleet(4, 20)
    return [
        source(Work.RUNS, RUNS, Fleet(settings.step_concurrency, settings.step_batch)),
        source(Work.EVENTS, EVENTS, deliveries),
        source(Work.WEBHOOKS, DELIVERIES, deliveries),
        source(Work.SCHEDULES, SCHEDULES, deliveries),
    ]
