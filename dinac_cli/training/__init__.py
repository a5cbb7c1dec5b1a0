"""Trains a model, which starts from another model or from the linear optimum (KLT)."""
