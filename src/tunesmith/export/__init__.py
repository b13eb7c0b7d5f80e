"""Merge adapters into a plain model folder, and prove that the folder answers as what was tried."""
