"""The commands: each only translates options to a job, results to the console, and an exit code."""
