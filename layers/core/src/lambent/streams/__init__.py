"""Streams of events that outlive their connection: kept in MongoDB, readable from anywhere.

A stream is a list of events, numbered from 1 without gaps; each is bytes as they go over the
wire, and ends with the only blank line in it. Its document tells who writes it and how it ended:

    live -> done | failed | stopped

The owner writes events in batches, insert-only and unique by the number of their first event: so
a zombie and its successor cannot both go on from the same event, and whoever loses an insert has
lost the stream. Frames stand before the status that ends a stream: who reads the status first has
all frames. An owner renews its lease while it lives; a stream whose lease lapsed is ended as
failed by the first reader who sees it. `expire_at` runs along with the lease, so that what a dead
owner leaves goes away too.
"""
