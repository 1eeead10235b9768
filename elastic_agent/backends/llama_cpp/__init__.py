"""llama.cpp: its server over HTTP.

May import `backends`' own files, `served`, `prompts`, `charging` and the root's modules.

completion_wire   The wire of `/completion`: a pass as a request body, the events of its answer.
server            A server as a backend.
server_pass       One pass on a server: posted, read, abandoned or read to its end.
slots             How far an abandoned generation had come.
"""
