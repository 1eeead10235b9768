"""What every model server needs, whatever engine it is.

May import `backends.base`, `prompts`, `charging` and the root's modules.

backend           The part of a server's backend that does not depend on the engine.
connection        Headers, proxy and further fields of every request.
events            The events of a streamed answer.
server_info       Before the first call: a server's address, models and tokenizer; what its errors mean.
sessions          HTTP sessions, one for each event loop.
"""
