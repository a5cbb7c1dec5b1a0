"""The work of each verb on many files, in bounded memory. Never prints.

Each verb has a module with a request (plain data), the run that `open` returns, and a generator
that yields one `FileResult` a file as soon as it is final. The caller's thread runs the model, so
the caller needs no lock for its work between two results (drawing a progress bar, stopping early).
"""
