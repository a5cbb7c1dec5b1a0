"""Trains models: from a model, or from the linear optimum (KLT) of the images."""
