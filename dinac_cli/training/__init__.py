"""Making models: so far the linear one that every training can start from."""
