"""LiteLLM's SDK, its `openai/` provider."""

from _litellm import try_provider
from _report import URL

try_provider("openai", URL)
