"""Other providers' chat models under the same ledger as ours: `guard`.

guard           `guard`, the public function, and what it guarantees
guarded_model   the classes of guarded models
guarded_call    one call: held before it is sent, sent with its Budget, settled whatever happens
prompt_tokens   input tokens of a call, tools and schemas included
controls        tables of models and client classes: how the thinking of each is controlled
providers       a Budget as the call options of a provider's model, by these tables
retries         the retries of clients, switched off
sent_requests   whether anything of a call may have left this machine
"""
