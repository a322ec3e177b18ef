"""The gRPC edge: services of different processes call each other here, through the same contracts as in one process.

`server.py` serves what a dispatcher serves, `channel.py` carries the calls of clients, `passport.py` says for whom a
call is made and proves that whoever says so may. What is above this package does not know which of the two it uses:
requests, answers, errors and deadlines are those of `contracts`.
"""
