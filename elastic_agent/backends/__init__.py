"""Backends: models that can be asked for tokens, behind one seam (`elastic_agent.backends.base.Backend`)."""
