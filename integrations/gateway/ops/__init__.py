"""What keeps the gateway running.

connections  how many connections are open, and which are closed first
listener     the listening socket
metrics      the numbers of `/metrics`
watchdog     reports which request makes the event loop stand still

Imports `errors` and `settings` of the gateway, and `telemetry`.
"""
