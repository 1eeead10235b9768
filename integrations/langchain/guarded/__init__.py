"""Other providers' chat models under the same ledger as ours.

clients       What other libraries' clients do by themselves: their retries, switched off; requests
              that leave, watched.
controls      Providers' controls of thinking, as data: what each model takes, and in which words each
              client says it.
guard         `guard`: any chat model under the same ledger as ours.
guarded_call  One call of a guarded model: held before it is sent, told its Budget, settled whatever
              happens.
providers     A Budget as the call options of a provider's chat model, by the rows of `_controls`.
"""
