"""How fast the network and the commands are on this machine, as ratios within one run.

Whatever is compared is timed in turns, so that a busy moment hits all of it. Never prints.
"""
