"""The groups that `--help` shows options in."""

INPUTS = "Inputs"
GEOMETRY = "Geometry"
MODEL = "Model and device"
RUN = "Run"
REPORTS = "Screen and reports"
