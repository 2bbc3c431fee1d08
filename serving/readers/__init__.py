"""Reading untrusted files: in processes of its own, under caps, or in threads of the server.

`pool` gives streams to processes and lives on the server's event loop; `nursery` is the process that they are forked
from, `worker` what each of them does; `wire` is what they may answer.
"""
