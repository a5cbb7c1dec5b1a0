"""The commands. Each turns options into a job, and results into console output and an exit code."""
