"""Examines the machine and the installation: what dinac uses, and why."""
