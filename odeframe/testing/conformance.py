"""What the conformance classes have in common: how a part is built, and which checks apply to it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

import pytest

from odeframe.compatibility import WRAPPED, traits_of
from odeframe.errors import InvalidOption
from odeframe.options import fits, hint_text, options_of
from odeframe.registry import registered, word

E = TypeVar("E", bound=Exception)


def concerns(condition: Callable[[Any], bool]) -> Callable[[Any], Any]:
    """Marks a check that is made only where the condition holds for the conformance class."""

    def mark(check: Any) -> Any:
        check.concerns = condition
        return check

    return mark


@contextmanager
def said(what: str) -> Iterator[None]:
    """Within it an error of the part fails the check, and says at what it was raised."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{what} raised {type(error).__name__}: {error}") from error


@contextmanager
def refused(error: type[E], match: str, hint: str) -> Iterator[pytest.ExceptionInfo[E]]:
    """Within it an error of this type is to come, with ``match`` in its message; the hint speaks where it does not."""
    try:
        with pytest.raises(error, match=match) as caught:
            yield caught
    except pytest.fail.Exception as failure:
        raise AssertionError(f"{hint} ({failure})") from failure


class Conformance:
    """A base class of pytest classes: a subclass names one part and inherits the checks of its kind.

    The part stands in a class attribute with the kind's name: a name of the registry, a mapping with a name and
    options, a class, or a function that builds it from options.

    Attributes:
        kind: what is tested.
        interface: the class of which a part of this kind is an instance.
        part: one object of it, which says which checks apply; every check builds its own.
    """

    kind: ClassVar[str]
    interface: ClassVar[type]
    part: ClassVar[Any] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Leaves out the checks that do not concern this part, so that none of them passes without checking.

        Raises:
            InvalidOption: what is built is no part of the kind.
        """
        super().__init_subclass__(**kwargs)
        if cls.choice() is None:
            return
        cls.part = cls.make()
        if not isinstance(cls.part, cls.interface):
            raise InvalidOption(
                f"{cls.kind}: {cls.choice()!r} builds a {type(cls.part).__name__}, expected a kind of "
                f"{cls.interface.__module__.partition('.')[0]}.{cls.interface.__name__}: write class "
                f"{type(cls.part).__name__}({cls.interface.__name__})"
            )
        for name in dir(cls):
            condition = getattr(getattr(cls, name), "concerns", None)
            if condition is not None and not condition(cls):
                setattr(cls, name, None)

    @classmethod
    def choice(cls) -> Any:
        """The word, class or function that the subclass gives."""
        found = inspect.getattr_static(cls, cls.kind, None)  # a function must not become a method
        return found.__func__ if isinstance(found, staticmethod) else found

    @classmethod
    def make(cls, **options: Any) -> Any:
        """A new object of the part, with further options."""
        return build(cls.kind, cls.choice(), **options)

    @classmethod
    def declared_traits(cls) -> set[str] | None:
        """What the registry's table says of the part, with the options it has; ``None`` where it is not registered."""
        choice = cls.choice()
        named = isinstance(choice, str | Mapping)
        component = word(cls.kind, choice).component if named else registered(cls.kind, cls.part)
        if component is None:
            return None
        traits = set(component.part.traits)
        for condition, added in component.part.when.items():
            option, _, value = condition.partition("=")
            if str(getattr(cls.part, option, None)) == value:
                traits.update(added.get("traits", ()))
        inner = getattr(cls.part, WRAPPED, None)
        return traits if inner is None else traits | traits_of(cls.kind, inner)

    @classmethod
    def stated_traits(cls) -> set[str]:
        """What the class, or the object, says of itself."""
        return set(getattr(cls.part, "traits", ()))

    @concerns(lambda kit: hasattr(kit.part, "traits"))
    def test_traits_of_table_and_class_agree(self) -> None:
        """What is declared for the compatibility check is what the class says."""
        declared, stated = self.declared_traits(), self.stated_traits()
        if declared is not None:
            assert declared == stated, (
                f"the plugin's table declares the traits {sorted(declared)}, the class has {sorted(stated)}: the check "
                "before anything is built reads the table, the solve the class; make them the same"
            )
        for interface, trait in self.implied_traits().items():
            assert not isinstance(self.part, interface) or trait in stated, (
                f"a subclass of {interface.__name__} has the trait {trait!r}, by which others find it; write traits = "
                f"({trait!r},) in the class and in the plugin's table"
            )

    def test_defaults_are_what_their_hints_say(self) -> None:
        """An option left out is no other than one that is given: its default has the type that is asked of a value."""
        component = word(self.kind, self.choice()).component if isinstance(self.choice(), str | Mapping) else None
        target = type(self.part) if component is None else component.load()
        for option in options_of(target)[0]:
            assert option.required or option.default is None or fits(option.default, option.hint), (
                f"the option {option} has a default that is no {hint_text(option.hint)}: change it, or the hint, "
                "against which the values that a user writes are held"
            )

    @classmethod
    def told(cls) -> Iterator[str]:
        """What is to be known of how this part is checked, where it is not as most of its kind are."""
        return iter(())

    @staticmethod
    def implied_traits() -> Mapping[type, str]:
        """Interfaces that imply a trait."""
        return {}


def build(kind: str, choice: Any, **options: Any) -> Any:
    """A part from a word, a class or a function, with options over those that the word has.

    Raises:
        InvalidOption: an object was given, of which the kit cannot make a second one.
    """
    if isinstance(choice, str):
        choice = {"name": choice}
    if isinstance(choice, Mapping):
        given = {name: value for name, value in choice.items() if not (name == "dt" and "steps" in options)}
        return word(kind, {**given, **options}).build()
    if inspect.isroutine(choice):
        return choice(**options)
    if isinstance(choice, type):
        return word(kind, choice).build(**options)
    raise InvalidOption(
        f"{kind} = {choice!r}: the kit builds the part several times with its own options; give a name, a mapping with "
        "a name, a class, or a function that takes options"
    )
