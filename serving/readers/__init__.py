"""Reading untrusted files: in processes of its own, under caps, or in threads of the server.

`base` says what either offers. `pool` and `work` give streams to processes, on the server's event loop; `nursery` is
the process that they are forked from, `worker` what each of them does; `wire` is what they may answer.
"""
