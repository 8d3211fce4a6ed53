"""Compares what is noted of an earlier run (run.json and the like) with what a run would note."""
import reprlib


def differing(before, now, prefix=""):
    """Return the dotted names whose values differ, or that only one of two nested dicts has."""
    names = []
    for key in {**before, **now}:
        a, b = before.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            names += differing(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(prefix + key)
    return names


def described(names, before, now, most=4):
    """Return differing values as a text: "steps 50, now 25; seed 1, now 2"; `most` of them."""
    said = [f"{name} {_value(before, name)}, now {_value(now, name)}" for name in names[:most]]
    return "; ".join(said) + (f"; and {len(names) - most} more" if len(names) > most else "")


def _value(record, name):
    for key in name.split("."):
        record = record.get(key) if isinstance(record, dict) else None
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    return short.repr(record)
