"""Errors, command line, files written whole: what every other package may use."""
