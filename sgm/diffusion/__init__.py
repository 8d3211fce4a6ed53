"""From an image to views: condition, sample, decode."""
