"""`python -m elastic_agent.training`: `elastic-agent train` for launchers of several processes."""

from .cli import main

main()
