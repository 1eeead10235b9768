"""The program that runs untrusted code; `..sandbox` starts one process of it for each sample.

Nothing here imports more than the standard library, because all of it is loaded again for every sample.

main         Watches a sample: its tests, its limits, its end. child        A forked and confined process, as
`main` holds it. confinement  How a process gives up its powers: landlock, seccomp, resource limits,
capabilities. launch       The supervisor's command line, and what a sample may read on this machine. messages
Plain values and frames between processes that don't trust each other. sample       What a confined process
does: run a program, call its function, serve calls, test another process. syscalls     The system calls that
a confined process may make.
"""
