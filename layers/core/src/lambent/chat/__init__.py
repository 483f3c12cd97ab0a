"""Turns: admitted, run by their agent, told as frames, and booked exactly once.

A turn runs in a task of its own (`LiveTurn`), apart from whoever reads it: it lives on while a
slow reader takes its time, ends at once when the reader leaves, and always ends with one booking.

    admitted -> (queued ->) running -> Finished | Failed -> booked

The verdict for the breaker falls at the model's first token; the booking at the end gives the
slot back. A process that dies books nothing: the slot's lease lapses by itself.
"""
