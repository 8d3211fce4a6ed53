"""Reads YAML files and `key=value` overrides into a dataclass, for every configuration.

A schema is a dataclass whose defaults are complete; a file states what differs. OmegaConf does the
typing. On top of it this module bounds what a file may hold and names the nearest key. Every error
is one line that names the file or flag, the key, what was found and what was expected.
"""
import difflib
import reprlib
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from typing import get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sgm.common.errors import InputError, argument
from sgm.common.files import check_file

_PACKAGE = Path(__file__).resolve().parents[1]
# The folder of configs/ and assets/: inside the package where it is installed, next to it in a
# checkout.
DATA = _PACKAGE if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent
CONFIGS = DATA / "configs"

# A configuration is a page of text. These bounds stop a document that expands without end (aliases
# of aliases).
MAX_BYTES, MAX_NODES, MAX_DEPTH = 256 << 10, 2000, 32


class ConfigError(InputError):
    """A configuration that cannot be used.

    The message names file, key, what was found and what was expected.
    """


def known_configs(kind):
    """Return the sorted names of the configurations in ``configs/<kind>/``."""
    return sorted(path.stem for path in (CONFIGS / kind).glob("*.yaml"))


def find_config(name, *kinds):
    """Return the path of a configuration in ``configs/<kind>/`` of one of the kinds, or elsewhere.

    `name` is a known name, a path, or a path that does not exist whose stem is a known name. Raises
    ConfigError.
    """
    path = Path(name)
    known = {stem: CONFIGS / kind / f"{stem}.yaml"
             for kind in kinds for stem in known_configs(kind)}
    if str(name) in known:
        return known[str(name)]
    check_file(path, ConfigError)
    if path.is_file():
        return path
    if path.is_dir():
        raise ConfigError(f"{name}: found a directory, expected a YAML file or one of"
                          f" {', '.join(known)}")
    if path.suffix in (".yaml", ".yml") and path.stem in known:
        return known[path.stem]
    near = difflib.get_close_matches(path.stem, known, 1)
    hint = f"; the nearest name is {near[0]}" if near else ""
    raise ConfigError(f"{name}: no such file or name, expected a YAML file or one of"
                      f" {', '.join(known)}{hint}")


def read_mapping(path):
    """Return the YAML file at `path` as nested dicts and lists.

    Raises ConfigError for anything but one mapping of unique keys and moderate size.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); expected a YAML"
                          " file") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES >> 10} KB; expected a YAML file, not"
                          " weights or an image")
    with _yaml_errors(path):
        text = data.decode("utf-8")
        node = _compose(text)
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"found {'nothing' if node is None else 'a ' + node.id}, expected a"
                              " mapping (key: value)")
        _count_expanded(node, {})
        # OmegaConf's loader reads 1e-5 as a number, which YAML 1.1 does not, and refuses a key
        # given twice.
        return OmegaConf.to_container(OmegaConf.create(text))


def _set():
    return argument("overrides", "--set")


def _read_override(override):
    """Return "a.b=3" as {"a.b": 3}. Raises ConfigError."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"{_set()} {reprlib.repr(override)[1:-1]}: expected key=value")
    with _yaml_errors(f"{_set()} {key}"):
        _count_expanded(_compose(text), {})
        return {
            key.strip(): OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]
        }


@contextmanager
def _yaml_errors(source):
    """Context manager: turns every error of reading YAML into a one-line ConfigError.

    The line starts with `source`.
    """
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{source}: not text; expected a YAML file in UTF-8") from None
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"{source}: not valid YAML ({error})") from None


def _compose(text):
    """Return the node of a YAML text. Raises ConfigError for too deep a nest, yaml.YAMLError.

    The depth is counted on the parser's events, which need no recursion: Python's limit of it is
    another one once MindSpore is imported.
    """
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ConfigError(f"nested too deeply; expected at most {MAX_DEPTH} levels")
    return yaml.compose(text, yaml.SafeLoader)


def _count_expanded(node, counts, depth=1):
    """Return the number of nodes at and below `node` with every alias written out.

    counts: those already counted. Raises ConfigError for too many, for too deep a nest, and for an
    interpolation.
    """
    # OmegaConf would read environment variables
    if isinstance(node, yaml.ScalarNode) and "${" in node.value:
        raise ConfigError(f"found {shown(node.value)}, expected a plain value, not an"
                          " interpolation")
    if id(node) not in counts:
        if depth > MAX_DEPTH:
            raise ConfigError(f"nested too deeply (or within itself), expected at most {MAX_DEPTH}"
                              " levels")
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in children for child in pair]
        counts[id(node)] = 1 + sum(_count_expanded(child, counts, depth + 1) for child in children)
        if counts[id(node)] > MAX_NODES:
            raise ConfigError(f"more than {MAX_NODES} values once aliases are written out, expected"
                              " a configuration, which has a few hundred at most")
    return counts[id(node)]


def load_yaml(schema, path, overrides=()):
    """Return an instance of the dataclass `schema`: defaults, then file, then overrides.

    path: a YAML file; overrides: ``key=value``. The schema's own ``validate()``, if it has one, is
    called on the result. Raises ConfigError naming file and key.
    """
    return build(schema, read_mapping(path), path, overrides)


def build(base, mapping, path, overrides=()):
    """Return `base` updated by `mapping`, then by `overrides`, and validated.

    base: a dataclass or an instance of one. mapping: nested, or with dotted keys. path: named in
    errors. See `load_yaml`.
    """
    config = OmegaConf.structured(base)
    known = _dotted_types(OmegaConf.get_type(config))
    _update(config, known, mapping, f"{path}: ")
    for override in overrides:
        _update(config, known, _read_override(override), f"{_set()} ")
    result = OmegaConf.to_object(config)
    if hasattr(result, "validate"):
        try:
            result.validate()
        except ConfigError as error:
            flags = f" with {_set()} {' '.join(overrides)}" if overrides else ""
            raise ConfigError(f"{path}{flags}: {error}") from None
    return result


def _update(config, known, mapping, source, prefix=""):
    """Set every leaf of `mapping` in the structured `config`.

    source: the file or flag that starts every error.
    """
    for name, value in mapping.items():
        key = f"{prefix}{name}"
        section = [other[len(key) + 1:] for other in known if other.startswith(key + ".")]
        if section and isinstance(value, dict):
            _update(config, known, value, source, key + ".")
        elif section:
            raise ConfigError(f"{source}{key}: found {shown(value)}, expected a mapping of"
                              f" {', '.join(section)}")
        elif key not in known:
            raise ConfigError(f"{source}{key}: unknown key{_nearest(key, known)}")
        else:
            try:
                _refuse_what_omegaconf_takes(value, known[key])
                OmegaConf.update(config, key, value)
            except (OmegaConfBaseException, ValueError, TypeError, OverflowError):
                kind = known[key]
                kind = kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
                raise ConfigError(f"{source}{key}: found {shown(value)}, expected {kind}") from None


def _refuse_what_omegaconf_takes(value, kind):
    """Raise ValueError for wrong values that OmegaConf accepts.

    They are a number as a bool, a container in a list, and "???", its mark of a value still to
    come.
    """
    items = value if isinstance(value, list) else [value]
    if (kind is bool and not isinstance(value, bool) or "???" in items
            or isinstance(value, list) and any(isinstance(item, (list, dict)) for item in value)):
        raise ValueError


def _dotted_types(schema, prefix=""):
    """Return {dotted key: type} of every leaf of a schema."""
    types = {}
    for name, kind in get_type_hints(schema).items():
        if is_dataclass(kind):
            types.update(_dotted_types(kind, f"{prefix}{name}."))
        else:
            types[prefix + name] = kind
    return types


def _nearest(key, known):
    """Return a hint at the known key nearest in spelling, first of all in the same section."""
    section, _, leaf = key.rpartition(".")
    by_leaf = {name.rpartition(".")[2]: name for name in known}
    by_leaf.update(
        {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == section})
    near = difflib.get_close_matches(leaf, by_leaf, 1)
    if near:
        return f"; the nearest known key is {by_leaf[near[0]]}"
    inside = section + "." if section else ""
    level = dict.fromkeys(name[len(inside):].partition(".")[0] for name in known
                          if name.startswith(inside))
    return f"; known keys are {', '.join(inside + name for name in level)}"


def shown(value):
    """Return a value as error messages show it: short, and on one line."""
    text = "nothing" if value is None else reprlib.repr(value)
    return text if len(text) <= 100 else text[:97] + "..."
