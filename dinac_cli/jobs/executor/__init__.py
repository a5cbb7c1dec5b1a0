"""Runs a job over many entries: reads ahead, computes in batches, writes behind. Never prints."""
