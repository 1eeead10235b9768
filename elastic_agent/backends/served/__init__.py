"""What every model server needs, whatever engine it is.

May import `backends.base`, `charging` and the root's modules.

connection        Headers, proxy and further fields of every request.
events            The events of a streamed answer.
server_info       Before the first call: a server's address, models and tokenizer; what its errors mean.
sessions          HTTP sessions, one for each event loop.
"""
