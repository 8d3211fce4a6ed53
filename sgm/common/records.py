"""Compares what is noted of an earlier run (run.json and the like) with what a run would note."""
import json
import reprlib

from sgm.common.errors import InputError
from sgm.common.files import atomic


def claim_folder(folder, settings, flag):
    """Note in folder/settings.json what its files are made with; make the folder if it is missing.

    settings: a dict that JSON can hold; flag: what messages put before the folder. Raises
    InputError for a folder that was made with others.
    """
    path = folder / "settings.json"
    text = json.dumps(settings, indent=1)
    if path.exists() and path.read_text(encoding="utf-8", errors="replace") != text:
        before, now = _read(path), json.loads(text)
        said = described(differing(before, now), before, now)
        raise InputError(f"{flag} {folder}: was filled with other settings ({path}: {said}); give"
                         " another folder")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _read(path):
    """Return what a settings.json holds; {} if it is damaged."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError):
        return {}


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
