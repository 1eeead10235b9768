"""What everybody who shows a call to somebody needs: the LangChain model and the gateway.

tool_calls   tool calls in a solution's text
guided       a tool choice, strict tools and response formats, for the engine
schemas      what an engine may be asked to guide by
pieces       a call's events as reasoning, text and tool calls
reasoning    an assistant's earlier thinking, in the ways that software hands it back
"""
