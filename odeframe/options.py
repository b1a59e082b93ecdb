"""The options of a part, read from the signature of its class, and their check before anything is built."""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Reversible, Sequence
from dataclasses import dataclass
from typing import Any

from odeframe.errors import InvalidOption, OdeframeError, suggestion

__all__ = ["Option", "check_not_negative", "check_options", "check_positive", "construct", "options_of"]

_EMPTY = inspect.Parameter.empty


@dataclass(frozen=True)
class Option:
    """One option of a part: its name, its type hint and its default."""

    name: str
    hint: Any
    default: Any = _EMPTY

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is _EMPTY

    @property
    def type(self) -> str:
        """The hint as one would write it; empty where there is none."""
        return "" if self.hint is Any else hint_text(self.hint)

    def __str__(self) -> str:
        text = f"{self.name}: {self.type}" if self.type else self.name
        return text if self.required else f"{text} = {_default_text(self.default)}"


def options_of(target: Callable[..., Any]) -> tuple[list[Option], bool]:
    """The options that a class or another callable takes.

    Args:
        target: what builds the part.

    Returns:
        the options in the order of the signature, and whether further ones are taken too (``**kwargs``, or a
        signature that cannot be read).
    """
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature: their own errors speak then
        return [], True
    hints = _hints(target)
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    options = [
        Option(parameter.name, hints.get(parameter.name, _plain_hint(parameter)), parameter.default)
        for parameter in parameters
        if parameter.kind in named
    ]
    return options, any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)


def check_options(
    kind: str, name: str, target: Callable[..., Any], options: Mapping[str, Any], *, partial: bool = False
) -> None:
    """Hold options against the signature of a part.

    Args:
        kind: of the part, for the message.
        name: of the part, for the message.
        target: what builds the part.
        options: the values by name.
        partial: whether the rest of the options is still to come, so that none can be missing yet.

    Raises:
        InvalidOption: an option is unknown, of a wrong type or missing.
    """
    known, open_ended = options_of(target)
    by_name = {option.name: option for option in known}
    has = f"Its options: {', '.join(map(str, known))}." if known else "It takes no options."
    for key, value in options.items():
        if key in by_name:
            hint = by_name[key].hint
            if value is not by_name[key].default and not fits(value, hint):
                got = f"got {key}={value!r} ({type(value).__name__}), expected {hint_text(hint)}"
                raise InvalidOption(f"{kind} {name!r}: {got}.{_number_in_text(value, hint)} {has}")
        elif not open_ended:
            near = suggestion(key, by_name)
            raise InvalidOption(f"{kind} {name!r} has no option {key!r} (got {key}={value!r}).{near} {has}")
    missing = [option.name for option in known if option.required and option.name not in options]
    if missing and not partial:
        raise InvalidOption(f"{kind} {name!r} needs the option {', '.join(map(repr, missing))}. {has}")


def check_positive(who: str, /, **options: float | None) -> None:
    """Refuses options that are no finite numbers > 0.

    Args:
        who: whose they are, for the message.
        **options: the values by name; ``None`` is not checked.

    Raises:
        InvalidOption: one is zero, negative, infinite or nan.
    """
    for name, value in options.items():
        if value is not None and not 0 < value < math.inf:
            raise InvalidOption(f"{who}, option {name}: got {value}, expected a finite number > 0")


def check_not_negative(who: str, /, **options: float | None) -> None:
    """The same, of options that may be zero."""
    for name, value in options.items():
        if value is not None and not 0 <= value < math.inf:
            raise InvalidOption(f"{who}, option {name}: got {value}, expected a finite number >= 0")


def construct(kind: str, name: str, target: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """Build a part from checked options.

    A list, as a configuration file gives it, becomes a tuple where the hint is a tuple.

    Raises:
        InvalidOption: the options do not fit the signature, or the constructor refuses their values.
    """
    check_options(kind, name, target, options)
    hints = {option.name: option.hint for option in options_of(target)[0]}
    values = {key: _as_tuple(value, hints.get(key, Any)) for key, value in options.items()}
    try:
        return target(**values)
    except OdeframeError:
        raise
    except (TypeError, ValueError) as error:
        raise InvalidOption(f"{kind} {name!r}: {error}") from error


def fits(value: object, hint: Any) -> bool:
    """Whether a value is what a type hint says; a hint that cannot be judged fits everything.

    An int is a float but a bool is not an int; a list is taken where a tuple is asked for, as configuration
    files have no tuples; a string is no sequence of strings.
    """
    if hint is Any or hint is _EMPTY or isinstance(hint, str | typing.TypeVar | typing.ForwardRef):
        return True
    if hint is None or hint is type(None):
        return value is None
    if hasattr(hint, "__supertype__"):  # a NewType
        return fits(value, hint.__supertype__)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is typing.Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if origin is typing.Annotated:
        return fits(value, arguments[0])
    if origin is type:
        return isinstance(value, type) and _is_subclass(value, arguments[0])
    if origin is tuple and not arguments:  # tuple[()]
        return isinstance(value, tuple | list) and not value
    return _is(value, origin or hint) and _elements_fit(value, origin or hint, arguments)


_NUMBERS = {int: numbers.Integral, float: numbers.Real, complex: numbers.Complex}
_CONTAINERS = (Iterable, Container, Collection, Reversible, Sequence)


def _is(value: object, cls: Any) -> bool:
    for number, numeric in _NUMBERS.items():
        if cls is number:
            return isinstance(value, numeric) and not isinstance(value, bool)
    if cls is tuple:
        return isinstance(value, tuple | list)
    if isinstance(value, str | bytes) and any(cls is container for container in _CONTAINERS):
        return False
    try:
        return isinstance(value, cls)
    except TypeError:  # a TypedDict, or a protocol that cannot be checked at run time
        return True


def _is_subclass(value: type, cls: Any) -> bool:
    return not isinstance(cls, type) or issubclass(value, cls)


def _elements_fit(value: Any, cls: Any, arguments: tuple[Any, ...]) -> bool:
    if not arguments or not isinstance(cls, type):
        return True
    if cls is tuple and arguments[-1] is not Ellipsis:
        return len(value) == len(arguments) and all(map(fits, value, arguments))
    if issubclass(cls, Mapping):
        key, item = arguments if len(arguments) == 2 else (arguments[0], Any)
        return all(fits(k, key) and fits(v, item) for k, v in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return all(fits(item, arguments[0]) for item in value)
    return True


def _as_tuple(value: Any, hint: Any) -> Any:
    if not isinstance(value, list):
        return value
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _as_tuple(value, typing.get_args(hint)[0])
    choices = typing.get_args(hint) if origin in (typing.Union, types.UnionType) else (hint,)
    for choice in choices:
        if not fits(value, choice):
            continue
        if (typing.get_origin(choice) or choice) is not tuple:
            return value
        inner = typing.get_args(choice)
        inner = inner[:1] * len(value) if inner[1:] == (Ellipsis,) else inner or (Any,) * len(value)
        return tuple(map(_as_tuple, value, inner))
    return value


def _number_in_text(value: object, hint: Any) -> str:
    if not isinstance(value, str):
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    if not math.isfinite(number) or not fits(number, hint):
        return ""
    return f" Write it as a number, {number} (YAML reads 1e-5 as text, 1.0e-5 as a number)."


def _hints(target: Any) -> dict[str, Any]:
    """The resolved hints of a callable's parameters; those that do not resolve are left out."""
    if isinstance(target, type):
        return _hints(target.__new__) | _hints(target.__init__)  # type: ignore[misc]
    function = target.func if isinstance(target, functools.partial) else target
    function = inspect.unwrap(function if inspect.isroutine(function) else type(function).__call__)
    scope = getattr(function, "__globals__", {})
    hints: dict[str, Any] = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        holder = type("holder", (), {"__annotations__": {name: annotation}})
        try:
            hints |= typing.get_type_hints(holder, globalns=scope, localns={}, include_extras=True)
        except Exception:  # a name that only the type checker sees: a hint that cannot be judged
            hints[name] = Any
    return hints


def _plain_hint(parameter: inspect.Parameter) -> Any:
    hint = parameter.annotation
    return Any if hint is _EMPTY or isinstance(hint, str) else hint


def hint_text(hint: Any) -> str:
    """A type hint as one would write it."""
    if hint is None or hint is type(None):
        return "None"
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " | ".join(hint_text(argument) for argument in typing.get_args(hint))
    if typing.get_origin(hint) is typing.Annotated:
        return hint_text(typing.get_args(hint)[0])
    if isinstance(hint, type) and not typing.get_args(hint):
        return hint.__name__
    return str(hint).replace("typing.", "").replace("collections.abc.", "")


def _default_text(default: object) -> str:
    return default.__name__ if isinstance(default, type) or inspect.isfunction(default) else repr(default)
