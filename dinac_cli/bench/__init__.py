"""How fast the model and the commands are on this machine, as ratios within one run.

Contenders are timed in turns, so that a busy moment slows all of them. Never prints.
"""
