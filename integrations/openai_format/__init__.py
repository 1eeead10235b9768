"""What the LangChain models and the gateway share: OpenAI-style tools, formats and messages.

May import the core; not its neighbours in `integrations/`.

deltas            a call's events as what people are shown: reasoning, text, tool calls
guided_decoding   tool choices, strict tools and response formats as fields for the engine
schema_check      limits and checks for the JSON schemas that an engine is asked to keep to
reasoning         an assistant's earlier thinking, in each form in which software hands it back
"""
