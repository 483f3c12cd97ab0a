"""The poller: the guarantee behind every nudge.

Started once a minute. It asks once, in one command, whether anything is due within its minute; if
not, it ends, so that an idle platform asks MongoDB once a minute. Else it takes over: it writes a
new generation, and the poller before it leaves at its next look, so that there is no gap between
the two. From then on it looks once a second, and exactly when the next document becomes due, and
nudges the functions for what it finds, never more than the fleet can take.

A settle that leaves a document due within a minute rings the bell (`generation.PollerBell`): it
invokes a poller if none is awake. That cannot be missed: the settle writes its due time and *then*
reads whether a poller is awake; a poller going to sleep writes that and *then* looks once more.
"""
