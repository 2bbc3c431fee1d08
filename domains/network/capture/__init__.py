"""Capture files to flows, a few mebibytes at a time and a whole stretch of packets per step.

``window`` reads bytes; ``pcap`` and ``pcapng`` find the frames in them; ``link``, ``internet`` and ``transport`` read
the headers; ``table`` tells which flow a packet belongs to; ``bursts`` keeps of each flow what a model sees;
``assembly`` puts it together; ``extraction`` is the pass over a capture.
"""
