"""The `elastic-agent` command: one file for each sub-command.

main       the parser of all sub-commands; errors become one sentence and an exit status
options    options that several sub-commands share: a model, caps, a ledger, a wrap-up sentence
demo       an agent on a shop's week of word problems, under caps
ask        one question, with a thinking and a solution budget
serve      the gateway, until a signal
serve_config    its YAML config: fields, options over the file, what a reload may change
serve_process   one process of it: start, reload, end
serve_workers   several processes of it on one port, and their parent
config_secrets  fields of the config that read the environment
upstreams  the models that `serve` is given, by options and config
keys       keys for the gateway, with caps
up         a vLLM server with the flags that budgets want, and the gateway before it
report     what a recorded run spent, and why
bench      whether a recorded run replays, and its regret against hindsight

May import every part. Modules import what is heavy when their command runs.
"""
