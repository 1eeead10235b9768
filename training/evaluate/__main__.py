"""`python -m elastic_agent.training.evaluate`: the same as `elastic-agent eval`."""

from elastic_agent.training.evaluate.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
