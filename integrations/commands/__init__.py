"""The `elastic-agent` command and its sub-commands.

main   The `elastic-agent` command.
serve  `elastic-agent serve` and `elastic-agent keys`.
up     `elastic-agent up`: a vLLM server with the flags that budgets want and a gateway before it,
       until Ctrl-C.
"""
