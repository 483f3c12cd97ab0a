"""Schedules: a workflow started at the instants of a cron expression.

A schedule is a due document whose `due_at` is its next tick. Whoever claims it starts the runs of
the ticks that have passed, then settles it to the tick after. The order matters: a crash between
the two starts them again, and a run is identified by its schedule and the tick's UTC instant, so
each tick has one run whatever the number of pollers and crashes.
"""
