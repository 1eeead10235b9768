"""A mark for tests that need reasoning-gym."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

needs_gym = pytest.mark.skipif(
    find_spec("reasoning_gym") is None, reason="no reasoning-gym here: pip install 'elastic-agent[gym]'"
)
