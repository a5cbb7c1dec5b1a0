"""Measures how fast the model and the commands are on this machine.

The models to compare are timed in turns, so that a busy moment slows all of them. This package
prints nothing.
"""
