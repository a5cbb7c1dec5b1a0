"""The commands. Each turns its options into a job, and results into output and an exit code."""
