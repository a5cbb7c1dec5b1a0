"""The work of each verb on many files, in bounded memory. Never prints.

Each verb has a module with a request (plain data), the run that opening it gives, and a generator
that yields one `FileResult` a file as soon as it is final. The caller's own thread runs the model,
so whatever the caller does between two results (drawing a progress bar, stopping early) needs no
lock.
"""
