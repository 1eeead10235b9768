"""The program that runs untrusted code; `..sandbox` starts one process of it for each sample.

This package imports the standard library alone, because it is loaded again for every sample.

child        A forked and confined process, as `main` holds it.
confinement  How a process gives up its powers: landlock, seccomp, resource limits, capabilities.
launch       The supervisor's command line, and what a sample may read on this machine.
main         Watches a sample: its tests, its limits, its end.
messages     Plain values and frames between processes that don't trust each other.
sample       What a confined process does: run a program, serve calls, test another process.
syscalls     The system calls that a confined process may make.
"""
