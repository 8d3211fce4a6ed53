"""What every other package may use: errors, the command line, files written whole."""
