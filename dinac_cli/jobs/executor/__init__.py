"""Runs a job on many entries: reads ahead, computes batches, writes in parallel.

Never prints.
"""
