"""Many files: reading ahead, one model thread, writing behind, in bounded memory. Never prints.

The batch interface is one generator per job: `encode.encode_files`, `decode.decode_files` and
`measure.measure_folders` take the inputs and options of a run and yield one `FileResult` a file,
as soon as it is final. The caller's own thread runs the model, so whatever the caller does between
two results (drawing a progress bar, stopping early) needs no locking.
"""
