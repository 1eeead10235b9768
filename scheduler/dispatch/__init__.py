"""The decision loop: the only place that writes what was decided.

dispatcher  calls ask here, and are granted, made to wait, or refused
revision    a running call's limit is extended or reduced
"""
