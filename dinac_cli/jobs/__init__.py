"""The work of each command on many files, in bounded memory. Never prints.

Each command has a module with three parts: a request (plain data), the run that `open` returns, and
a generator. The generator yields one `FileResult` per file as soon as the result is final. The
model runs in the caller's thread. So between two results the caller can draw a progress bar or stop
the run without a lock.
"""
