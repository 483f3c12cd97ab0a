"""The durable engine, in words. The code is in the modules beside this one.

An author writes `async def fn(step, input)` and registers it with `@workflow("name")`
(`registry.py`). A run of it survives crashes, deploys, timeouts and months of waiting, because each
of its steps leaves a checkpoint, and because any function may take it up where it stands.

Where to look: `step.py` is the author's API, `engine.py` the `WorkflowEngine` and its `MongoStore`,
`control.py` what others ask of runs, `slices.py` and `execution.py` how a run advances,
`transitions.py` every state change, `lambent.due` the ownership, `lambent.waits` the events.

States
    active   pending   no slice has begun it
             running   a slice has it, or died with it
             waiting   settled until its due time or a wake
    parked   paused    by someone; goes on when resumed
             blocked   by the engine: poison, no code, nondeterministic, budget, no progress
    ended    completed, failed, cancelled

Transitions (each is one compare-and-set)
    by the slice that holds the lease          from                      to
        begin                                  active, blocked no code   running
        suspend                                running                   waiting
        hold (no slot, no start free yet)      active                    the same, later
        pause (obeys `control: pause`)         active                    paused
        block                                  active                    blocked
        decide (how it will end; then undo)    running                   running, `ending` set
        continue_as_new                        running                   running, next epoch
        end                                    active                    ended, with debts
        forget (debts are paid)                ended                     ended, never due again
        be quit (debts of the last epoch)      active                    the same, without debts
    by whoever starts a run and advances it at once
        take                                   none                      running, under his lease
    by a command
        cancel     active: `control: cancel`; parked: waiting with it; ended: refused
        pause      active: `control: pause`, unless it is being ended; else refused
        resume     parked: waiting; active with a pause asked for: the pause is off; else refused
        retry      failed, cancelled: waiting in the next epoch; else refused
        restart    ended, parked: waiting in the next epoch; else refused
        delete     ended: gone; else refused
    A command on a run that has just ended does not wait for its debts. Retry and restart leave them
    on the run, with the lease of whoever pays them: the next epoch begins once they are paid.
    A restart of a parked run takes its lease from the slice that looks at it, which has begun
    nothing of it.
    Delete marks the run, so that nothing takes it on any more, pays them itself, and then deletes.
    A blocked run that was being undone is ended by a cancel without the rest of its undoing, which
    its error then says (`undo_skipped`). A cancel of a run without code cancels its children at
    once; then the run ends, unless a step of it has to be undone: for that it stays blocked until
    its version is deployed, or until a second cancel.

Claims
    A run is claimed if it is due and its lease has lapsed. The slice reads the run, then its
    steps and waits, replays the code over them, and goes on. It settles when nothing in the run can
    go on, when its time is nearly over, or at SIGTERM. A settle that would let the run sleep is
    refused if the run was signalled since it was read: the slice then looks again. Waits below two
    seconds stay in the slice. A slice that dies leaves the run due, under a lease that lapses after
    30 s; after one such death the run goes alone, after five in a row without a new checkpoint
    it is blocked as poison.

What may run twice
    * The code between steps: at every slice. It must be deterministic: what it asks for must follow
      from its input and from what its steps returned. `step.now`, `step.uuid` and `step.random` are
      the same at each replay.
    * The body of a step whose slice died between the effect and the checkpoint, or whose owner was
      so slow that another took over. Give the outside world `await step.uuid()` as an idempotency
      key, or say `at_most_once=True`.
    * `check` of `wait_until`, the `key` functions of flow control, a child's input.

    * A report of `step.progress` and, after a crash, a line of `step.log`.

What never happens
    * A recorded checkpoint does not change; the first writer wins, and every later one gets what
      the first wrote.
    * A step is not recorded twice under one key and epoch; a late owner writes into its own epoch.
    * An event does not count twice for one run, nor is one lost that came after the run was
      asked for (less 5 s) and before the wait's deadline.
    * A run does not end twice, and nobody but the owner of its lease writes its state, except by
      the commands above.
    * An `at_most_once` step is not begun twice: a mark comes before it, and a mark without a result
      becomes `Interrupted`. Whoever retries the run, or restarts it, wants it begun once more.
    * An author's `except Exception` does not swallow a suspension, a cancel or a lost lease.

Changed code
    A run stays on its version, so a changed workflow is a new version. Where the code of a version
    was changed all the same, its run is blocked as nondeterministic, with the step named and
    nothing overwritten: when it asks for another kind of step under a recorded key; when a branch
    asks for a step that is not on record before it has asked for all of its own that are (renamed,
    or put in front: seen before its body runs); or when it returns without having asked for a
    recorded step. A gather or map is recorded after its branches, so that another name of it is
    seen only at the end. Once the code is put right, resume the run.

Epochs
    Retry, restart and `continue_as_new` raise the epoch in one guarded update and delete nothing.
    What the new epoch sees of the old ones is told by the cuts on the run (`documents.visible`): a
    record counts if it was begun before the step that was cut off, or stands in a sibling branch of
    it. A late owner's checkpoint lands in its own epoch, where nobody looks.

    A retry goes on from the step that failed. Where that step was the result of a child run that
    failed or was cancelled, the child is retried first, by the same rule and in its own run: what
    it has completed is kept, and so on down to the step that really failed. The parent says which
    end of the child it will not take again (`again`, in the update that raises its epoch); its next
    slice retries the child when it comes by. A child that was retried on its own meanwhile is taken
    as it ended then, if well; one that is gone, or belongs to another run (a singleton), is started
    anew. A restart from such a step does the same.

Ending
    A run that fails or is cancelled after a step with `undo=` first fixes how it will end. Then the
    code is replayed once more; where it reaches a step that is not on record, a tombstone takes
    the place, so that no late owner can record it. Then the undos run, last step first, each a
    durable step. The settle that ends a run says what it owes (a wake to its parent, its
    concurrency slot to a waiter, an expiry to all it left) and leaves it due; each debt is
    idempotent, and only the last settle forgets them. An ended run is kept 30 days.

For people who look
    A run keeps its last 50 slices (`slice_history.py`), a step its last ten attempts, each with
    where the code failed, and both what the code said (`run_log.py`). All of it goes into writes
    that are made anyway, and none of it is read by a claim or a replay. Which steps are under way,
    of which nothing is on record yet, the renewals of the lease say (`under_way.py`): within two
    seconds, and without a write for a shorter step.

Limits
    A name has 256 characters; a value 64 MB (over 1 MB it goes into chunks beside its document); a
    step's timeout what a function has left of its own. All the steps of a run are read when a
    slice starts: beyond some ten thousand, continue as new.
"""
