"""The commands: each starts a job, prints its results and returns an exit code."""
