"""Measuring: speed, hardware, quality, tasks."""
