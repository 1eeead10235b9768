"""Parts of an account's caps, for one run or another process.

leases  Shares of an account in a durable store: what one run may use of a thread's, or of another
        process's, caps.
remote  A part of a task's caps for a graph that runs in another process, by an id that travels as
        JSON.
"""
