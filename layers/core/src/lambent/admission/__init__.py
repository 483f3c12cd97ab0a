"""Admission: who may go on, how often, to which model host, and with which slot.

One round trip decides (`Gate.admit`, the database function `lambent.decide`), in this order:
401 no good key, 403 scope, 429 limit or budget, 501 unknown agent, 503 breaker open or no slot.
What an earlier step refused, a later one never sees; what the limit took stays taken, whatever
follows.

The breaker of a host:

    closed --failures in a row--> open --open_until, first caller--> half open --successes--> closed
                                   ^                                     |
                                   +--------------- failure -------------+

Every arrow raises the generation. A result carries the generation that its caller was admitted
with, and counts only while that one lasts. While half open, one caller in the fleet holds the
probe, a lease on the breaker's row; only its holder's result counts.

A result is booked once, by `Gate.verdict` (at the first token) or else by `Gate.finish`:

    outcome      closed                  half open, holder of the probe
    success      failures = 0            probe free, successes + 1; enough of them: closed
    refused      as success: a 4xx means that the host is well
    failure      failures + 1            open again
    busy         nothing                 probe free, no verdict
    abandoned    nothing                 probe free, no verdict

After a success at the first token, `finish` books nothing but a later `failure` (the stream broke):
as one more failure in a row while closed, as the end of that half-open time while half open. After
any other verdict `finish` only releases the slot. So a long answer cannot, at its end, wipe out the
failures that others had meanwhile.

What a turn used is booked with `finish`, and each second while a model answers: cumulative, under
the turn's token and a number that rises, so that a repeated, late or lost booking does no harm.
Guaranteed, then, as long as Postgres itself does not crash (that may cost its last half second):

- a generation whose end this process saw is booked with the numbers of the model server, once;
- one that broke off (stopped, left, failed) is booked with the pieces that had come, once: the
  server never tells its numbers; its prompt is estimated, in a column of its own;
- a process that is killed loses of its turns at most what came within its last second;
- a step's generation is booked before its checkpoint is written;
- while Postgres is away bookings wait in the process; who is killed then loses those.
"""
