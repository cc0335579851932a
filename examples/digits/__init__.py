"""Serve a classifier of handwritten digits, and replace it while it is used."""
