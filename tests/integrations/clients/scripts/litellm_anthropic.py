"""LiteLLM's SDK, its `anthropic/` provider."""

from _litellm import try_provider
from _report import ROOT

try_provider("anthropic", ROOT)
