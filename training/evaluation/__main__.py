"""`python -m elastic_agent.training.evaluation`: the same as `elastic-agent eval`."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
