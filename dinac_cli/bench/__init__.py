"""Measures how fast the model and the commands are on this machine.

The compared models are timed in turns, so that other load on the machine slows all of them. This
package prints nothing.
"""
