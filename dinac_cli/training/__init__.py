"""Trains a model. Training starts from another model or from the linear optimum (KLT)."""
