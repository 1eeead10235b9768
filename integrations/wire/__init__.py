"""What everybody who shows a call to somebody needs: the LangChain model and the gateway.

tool_calls   tool calls in a solution's text
pieces       a call's events as reasoning, text and tool calls
"""
