"""From YAML text and `key=value` flags to a dataclass: the one reader of every configuration.

A schema is a dataclass whose defaults are complete; a file says what differs. Every error is one line that names the
file or flag, the key, what was found and what was expected.
"""
import difflib
import reprlib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sgm.common.errors import InputError

_PACKAGE = Path(__file__).resolve().parents[1]
# The folder of configs/ and assets/: within the package where it is installed, beside it in a checkout.
DATA = _PACKAGE if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent
CONFIGS = DATA / "configs"

# A configuration is a page of text. These bounds stop a document that expands without end (aliases of aliases).
MAX_BYTES, MAX_NODES, MAX_DEPTH = 256 << 10, 2000, 32


class ConfigError(InputError):
    """A configuration that cannot be used; the message names file, key, what was found and what was expected."""


def load_yaml(schema, path, overrides=()):
    """An instance of the dataclass `schema`: its defaults, then the YAML file, then ``key=value`` overrides.

    The schema's own ``validate()``, if it has one, is called on the result. Raises ConfigError naming file and key.
    """
    return build(schema, read_mapping(path), path, overrides)


def known_configs(kind):
    """Names of the configurations in ``configs/<kind>/``, sorted."""
    return sorted(path.stem for path in (CONFIGS / kind).glob("*.yaml"))


def find_config(name, kind):
    """The path of a configuration in ``configs/<kind>/`` or elsewhere.

    `name` is a known name, a path, or a path that does not exist whose stem is a known name. Raises ConfigError.
    """
    path, known = Path(name), known_configs(kind)
    if str(name) in known:
        return CONFIGS / kind / f"{name}.yaml"
    if path.is_file():
        return path
    if path.is_dir():
        raise ConfigError(f"{name}: found a directory, expected a YAML file or one of {', '.join(known)}")
    if path.suffix in (".yaml", ".yml") and path.stem in known:
        return CONFIGS / kind / f"{path.stem}.yaml"
    near = difflib.get_close_matches(path.stem, known, 1)
    hint = f"; the nearest name is {near[0]}" if near else ""
    raise ConfigError(f"{name}: no such file or name, expected a YAML file or one of {', '.join(known)}{hint}")


def read_mapping(path):
    """The YAML file at `path` as nested dicts and lists; refuses what is not one modest mapping of unique keys."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); expected a YAML file") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES >> 10} KB; expected a YAML file, not weights or an image")
    try:
        text = data.decode("utf-8")
        node = yaml.compose(text, yaml.SafeLoader)
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{path}: found {'nothing' if node is None else 'a ' + node.id}, expected a mapping"
                              " (key: value)")
        _count_expanded(node, {}, f"{path}: ")
        # OmegaConf's loader reads 1e-5 as a number, which YAML 1.1 does not, and refuses a key given twice.
        return OmegaConf.to_container(OmegaConf.create(text), resolve=True)
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not text; expected a YAML file in UTF-8") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply; expected at most {MAX_DEPTH} levels") from None
    except ConfigError:
        raise
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"{path}: not valid YAML ({error})") from None


def _count_expanded(node, counts, source, depth=1):
    """Number of nodes below `node` with every alias written out; `counts` remembers those already counted."""
    if isinstance(node, yaml.ScalarNode) and "${" in node.value:  # OmegaConf would read environment variables
        raise ConfigError(f"{source}found {shown(node.value)}, expected a plain value, not an interpolation")
    if id(node) not in counts:
        if depth > MAX_DEPTH:
            raise ConfigError(f"{source}nested too deeply (or within itself), expected at most {MAX_DEPTH} levels")
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in children for child in pair]
        counts[id(node)] = 1 + sum(_count_expanded(child, counts, source, depth + 1) for child in children)
        if counts[id(node)] > MAX_NODES:
            raise ConfigError(f"{source}more than {MAX_NODES} values once aliases are written out, expected a"
                              " configuration, which has a few hundred at most")
    return counts[id(node)]


def build(base, mapping, path, overrides=()):
    """`base` (a dataclass or an instance of one) with `mapping`, then `overrides`, laid over it, and validated.

    `path` is named in errors. See `load_yaml`.
    """
    schema = base if isinstance(base, type) else type(base)
    config = OmegaConf.structured(base)
    _lay_over(config, schema, mapping, f"{path}: ")
    for override in overrides:
        _lay_over(config, schema, _read_override(override), "--set ")
    result = OmegaConf.to_object(config)
    if hasattr(result, "validate"):
        try:
            result.validate()
        except ConfigError as error:
            flags = f" with --set {' '.join(overrides)}" if overrides else ""
            raise ConfigError(f"{path}{flags}: {error}") from None
    return result


def _read_override(override):
    """"a.b=3" as {"a": {"b": 3}}. Raises ConfigError."""
    key, equals, text = override.partition("=")
    said = override if len(override) <= 100 else override[:97] + "..."
    if not equals or not key.strip():
        raise ConfigError(f"--set {said}: expected key=value")
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        if node is not None:
            _count_expanded(node, {}, f"--set {key}: ")
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]
    except ConfigError:
        raise
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        raise ConfigError(f"--set {said}: not key=value ({error})") from None
    for name in reversed(key.strip().split(".")):
        value = {name: value}
    return value


def _lay_over(config, schema, mapping, source):
    """Set every leaf of `mapping` in the structured `config`; `source` (file or flag) begins every error."""
    known = _dotted_types(schema)
    sections = {key.rpartition(".")[0] for key in known}

    def descend(mapping, prefix):
        for name, value in mapping.items():
            key = f"{prefix}{name}"
            if key in sections:
                if not isinstance(value, dict):
                    names = [other[len(key) + 1:] for other in known if other.startswith(key + ".")]
                    raise ConfigError(f"{source}{key}: found {shown(value)}, expected a mapping of {', '.join(names)}")
                descend(value, key + ".")
            elif key in known:
                _set_leaf(config, key, value, known[key], source)
            else:
                raise ConfigError(f"{source}{key}: unknown key{_nearest(key, known)}")

    descend(mapping, "")


def _set_leaf(config, key, value, kind, source):
    expected = kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
    try:
        if not _fits(value, kind) or value == "???":  # OmegaConf's mark of a value yet to come
            raise ValueError
        OmegaConf.update(config, key, value)
    except (OmegaConfBaseException, ValueError, TypeError, OverflowError):
        raise ConfigError(f"{source}{key}: found {shown(value)}, expected {expected}") from None


def _fits(value, kind):
    """Refuses what OmegaConf would let through: True as a number, a number as True, mappings inside lists."""
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_fits(item, get_args(kind)[0]) for item in value)
    if kind in (int, float, bool, str):
        return not isinstance(value, (list, dict)) and (kind is str or isinstance(value, bool) == (kind is bool))
    return True


def _dotted_types(schema, prefix=""):
    """{dotted key: type} of every leaf of a schema."""
    hints, types = get_type_hints(schema), {}
    for item in fields(schema):
        kind = hints[item.name]
        if is_dataclass(kind):
            types.update(_dotted_types(kind, f"{prefix}{item.name}."))
        else:
            types[prefix + item.name] = kind
    return types


def _nearest(key, known):
    """The known key nearest in spelling: of the same section first, then a key of that name in another section."""
    section, _, leaf = key.rpartition(".")
    by_leaf = {name.rpartition(".")[2]: name for name in known}
    by_leaf.update({name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == section})
    near = difflib.get_close_matches(leaf, by_leaf, 1)
    if near:
        return f"; the nearest known key is {by_leaf[near[0]]}"
    inside = section + "." if section else ""
    level = dict.fromkeys(name[len(inside):].partition(".")[0] for name in known if name.startswith(inside))
    return f"; known keys are {', '.join(inside + name for name in level)}"


def shown(value):
    """A value as error messages show it: short, and on one line."""
    text = "nothing" if value is None else reprlib.repr(value)
    return text if len(text) <= 100 else text[:97] + "..."
