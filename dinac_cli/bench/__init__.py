"""Measures how fast the model and the commands are on this machine.

Contenders are timed in turns, so that a busy moment slows all of them. Nothing here prints.
"""
