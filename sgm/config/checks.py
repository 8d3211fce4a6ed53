"""Checks of settings, shared by every schema; each raises a one-line ConfigError."""
from sgm.config.yaml_reader import ConfigError, shown


def require(good, key, found, expected):
    """Raise ConfigError naming `key`, what was found and what was expected, unless `good`."""
    if not good:
        raise ConfigError(f"{key}: found {shown(found)}, expected {expected}")


def require_one_of(value, key, choices, note=""):
    """Raise ConfigError unless `value` is one of the strings `choices`. `note` ends the message."""
    require(value in choices, key, value, f"one of {', '.join(choices)}{note}")


def require_within(settings, section, bounds):
    """Raise ConfigError unless every field named in `bounds` lies in its range, ends included.

    settings: a dataclass, whose dotted prefix is `section` ("" or "nerf."). bounds: {field: (low,
    high)}. A field may be a number or a list of numbers, which must not be empty.
    """
    for name, (low, high) in bounds.items():
        numbers, kind = _numbers(settings, name)
        require(numbers and all(low <= number <= high for number in numbers), section + name,
                getattr(settings, name), f"{kind} from {low:.10g} to {high:.10g}")


def require_positive(settings, section, names, most):
    """Raise ConfigError unless the named fields are above 0 and at most `most`.

    They are numbers or lists of numbers.
    """
    for name in names:
        numbers, kind = _numbers(settings, name, "positive ")
        require(numbers and all(0 < number <= most for number in numbers), section + name,
                getattr(settings, name), f"{kind} up to {most:.10g}")


def _numbers(settings, name, adjective=""):
    """Return the numbers of a field as a list, and what an error calls them."""
    value = getattr(settings, name)
    if isinstance(value, list):
        return value, f"{adjective}numbers"
    return [value], f"a {adjective}number"
