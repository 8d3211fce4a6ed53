"""Families of procedural objects: by name, and the one whose objects have a front and a back."""
