"""Rectify what is wrong with trained networks: swappable objectives, and callbacks that log the evidence."""

__version__ = "0.1.0"
