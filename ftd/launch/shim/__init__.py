"""The parent of one worker: it keeps the locks, the facts and the exit, whatever the daemon does.

    main.py       the program: one loop over pipes, connections and signals
    worker.py     the child, its output, and what it leaves behind
    spool.py      its facts, on the disk
    locks.py      the kernel locks of its job and devices
    record.py     files that must be whole: assigned.json, exit.json
    memory.py     whether the kernel killed for want of memory
    processes.py  who started whom
    bounds.py     how much memory and how many processes the worker may take
    sandbox.py    what the worker may do: its grants, applied by landlock.py and seccomp.py

A program of its own that imports the standard library and these files alone, all at its start, so
that an upgrade cannot change it while it runs. It goes through three states:

    unassigned   ends, and its worker with it, as soon as no control connection is left
    assigned     holds the locks; goes on without any connection until the worker ends, unless it
                 is told at its start to end with its daemon
    ended        everything that the worker left is killed, the pipes are emptied, the spool is on
                 the disk, then exit.json; the kernel frees the locks when this process ends

Its standard input is the launcher's first control connection; later ones come to RUN/control.sock.
Control is JSON lines. Down:                            Up:

    {"op": "assign", "job", "attempt", "locks", "line"}     {"assigned": true}, {"refused": why},
                                                            or {"ended": why} of the worker
    {"op": "send", "line"}       to the worker's stdin
    {"op": "signal", "name"}     TERM or KILL, to its group; USR1, to it alone
    {"op": "status"}                                        {"status": {...}}

A lock is {"path", "shared"}. Unasked it says {"poke": seq, "stalled"} to a new connection, when
there are new frames and when the disk begins or ends to refuse them, and {"exit": true} at the end.
"""
