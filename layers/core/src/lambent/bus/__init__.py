"""The event bus: CloudEvents kept in MongoDB, handed to runs, workflows and webhooks.

Publishing is one insert. The inserted document is born leased by its publisher, who then delivers
it; if the publisher dies, the lease lapses and the poller gives the event to `deliver`. Both run
the same code, `delivery.Deliverer`.

Delivery of one event, in this order, each part idempotent:

1. Waits. Every open wait that matches is satisfied by one compare-and-set. Then *every* run whose
   wait was open, or that already holds this event, is woken, whoever satisfied it: whoever did
   may have died before the wake.
2. Triggers. Each workflow registered `on=` this type is started with the event as the run's key.
3. Webhooks. One delivery document for each matching webhook, its `_id` made of both ids.
4. Only then is the event marked delivered, and gets the time at which it expires.

A fan-out too large for one lease saves its cursor with each renewal. What may happen twice: a wake
(harmless), a nudge (harmless), a webhook call (receivers tell by `webhook-id`). What never does: a
run taking one event twice, a second run for one event and workflow, a second delivery document.
An event whose deliverers died five times is set aside as `failed`, and can be replayed.

Webhook deliveries: `pending` → `delivered`, or `dead` after the last retry, a refused target or a
410; `dead` and `delivered` → `pending` again by replay.
"""
