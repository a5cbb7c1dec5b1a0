"""What runs a job: on this machine's threads."""
