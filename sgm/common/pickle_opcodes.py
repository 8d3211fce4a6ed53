"""Follows the opcodes of a pickle that plain data need, without Python's unpickler.

That one runs what a file tells it to. Here a file may name only the functions that the caller
gives, and everything else in it is refused by its name.
"""
import pickletools

_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING",
    "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class PickleError(ValueError):
    """A pickle that holds anything else than plain data; the message says what."""


class _Function:
    """A function that the pickle names and may call."""

    def __init__(self, call):
        self.call = call


def follow(data, functions, build=None, persistent=None):
    """Return what the bytes of a pickle hold: numbers, texts, lists, tuples, dicts, and more.

    functions: {"module name": what to call in its place}. build(value, state): completes a value
    that a function has made; persistent(value): returns what a reference to the outside stands for.
    Raises PickleError for anything else, and for what these raise: ValueError, IndexError,
    KeyError, TypeError, AttributeError, OverflowError.
    """
    try:
        return _run(data, functions, build, persistent)
    except PickleError:
        raise
    # a damaged file: too few values on the stack, unknown opcodes, wrong lengths
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise PickleError(f"is damaged ({error})") from None


def _run(data, functions, build, persistent):
    """Follow the opcodes and return the last value."""
    stack, marks, memo = [], [], {}

    def named(name):
        if name not in functions:
            raise PickleError(f"holds a {name.replace(' ', '.')}")
        return _Function(functions[name])

    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            return stack.pop()
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            marks.append(len(stack))
        elif name in _TUPLES:
            stack[-_TUPLES[name]:] = [tuple(stack[-_TUPLES[name]:])]
        elif name in ("TUPLE", "LIST"):
            first = marks.pop()
            stack[first:] = [(tuple if name == "TUPLE" else list)(stack[first:])]
        elif name in ("APPEND", "APPENDS"):
            first = len(stack) - 1 if name == "APPEND" else marks.pop()
            stack[first - 1].extend(stack[first:])
            del stack[first:]
        elif name in ("DICT", "SETITEM", "SETITEMS"):
            first = len(stack) - 2 if name == "SETITEM" else marks.pop()
            if name == "DICT":
                stack.insert(first, {})
                first += 1
            stack[first - 1].update(zip(stack[first::2], stack[first + 1::2]))
            del stack[first:]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[int(argument)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[int(argument)])
        elif name == "GLOBAL":
            stack.append(named(argument))
        elif name == "STACK_GLOBAL":
            stack[-2:] = [named(" ".join(stack[-2:]))]
        elif name == "REDUCE":
            function, arguments = stack[-2:]
            if not isinstance(function, _Function):
                raise PickleError("calls what is no function")
            stack[-2:] = [function.call(*arguments)]
        elif name == "BUILD" and build is not None:
            state = stack.pop()
            build(stack[-1], state)
        elif name == "BINPERSID" and persistent is not None:
            stack.append(persistent(stack.pop()))
        else:
            raise PickleError(f"holds the opcode {name}, expected plain data only")
    raise PickleError("ends too early")
