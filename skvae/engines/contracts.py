"""Check of what an engine asks of the objects that it is handed: an error before the first step, not within it."""

import functools
import inspect
from typing import Protocol


def check_contract(obj, protocol, who):
    """Raise a TypeError if an object lacks a method or attribute that a protocol declares.

    Parameters
    ----------
    obj : object
    protocol : class that derives from typing.Protocol
        Its public methods, and the attributes that it annotates, with those of the protocols it derives from.
    who : str
        What asks, the beginning of the error: "engines.em.ascend(model=...)".

    Raises
    ------
    TypeError
        It names the class of the object, all that it lacks with signatures, and the protocol.

    Examples
    --------
    >>> class Model(Protocol):
    ...     def m_step(self, stats, params): ...
    >>> check_contract(3.5, Model, "engines.em.ascend(model=...)")
    Traceback (most recent call last):
        ...
    TypeError: engines.em.ascend(model=...) must be a Model, but float lacks m_step(stats, params);
    see skvae.engines.contracts.Model.
    """
    methods, attributes = _declared(protocol)
    lacks = [text for name, text in methods.items() if not callable(getattr(obj, name, None))]
    lacks += [name for name in attributes if not hasattr(obj, name)]
    if lacks:
        article = "an" if protocol.__name__[0] in "AEIOU" else "a"
        raise TypeError(
            f"{who} must be {article} {protocol.__name__}, but {type(obj).__name__} lacks {' and '.join(lacks)}; "
            f"see {protocol.__module__}.{protocol.__qualname__}."
        )


@functools.cache
def _declared(protocol):
    """The public methods of a protocol, name -> name with signature, and the names of its attributes."""
    bases = [base for base in reversed(protocol.__mro__) if Protocol in base.__bases__]
    functions = {
        name: f for base in bases for name, f in vars(base).items() if inspect.isfunction(f) and name[0] != "_"
    }
    attributes = [name for base in bases for name in inspect.get_annotations(base) if name[0] != "_"]
    methods = {}
    for name, function in functions.items():
        own, *others = inspect.signature(function).parameters.values()
        methods[name] = f"{name}{inspect.Signature(others)}"
    return methods, attributes
