"""Measurements side by side with peers; run them with `make bench`."""
