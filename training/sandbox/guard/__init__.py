"""The program that runs untrusted code: `elastic_agent.training.sandbox.sandbox` starts it, one process for
each sample.

`guard.main` watches, `guard.sample` is what the watched process does, `guard.kernel` is how it is confined,
`guard.plain` carries values between processes. Nothing here imports more than the standard library, because
all of it is loaded again for every sample.
"""
