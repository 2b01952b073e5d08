"""An object that lacks what a protocol declares is refused by name; any other passes, whatever its class."""

from types import SimpleNamespace
from typing import Protocol

import pytest

from skvae.engines.contracts import check_contract


class Steps(Protocol):
    """Two steps, of which the first has a default."""

    def e_step(self, batch, params, memory=None): ...

    def m_step(self, stats, params): ...


class Named(Steps, Protocol):
    """The steps, and an attribute."""

    n_components: int

    def _private(self): ...


class Half:
    """Lacks m_step, and has a number where e_step should be."""

    e_step = 3
    n_components = 2


def test_what_has_everything_passes():
    class Whole:  # derives from no protocol
        n_components = 2

        def e_step(self, batch, params, memory): ...

        def m_step(self, stats, params): ...

    check_contract(Whole(), Named, "engine")
    check_contract(SimpleNamespace(e_step=print, m_step=print), Steps, "engine")


@pytest.mark.parametrize(
    ("obj", "protocol", "message"),
    [
        (
            Half(),
            Steps,
            r"^engine must be a Steps, but Half lacks e_step\(batch, params, memory=None\) "
            r"and m_step\(stats, params\); see .*test_contracts\.Steps\.$",
        ),
        (
            SimpleNamespace(e_step=print, m_step=print),
            Named,
            r"but SimpleNamespace lacks n_components; see .*\.Named\.",
        ),
        (SimpleNamespace(e_step=print, n_components=1), Named, r"lacks m_step\(stats, params\); see"),
    ],
)
def test_an_error_names_the_class_and_all_that_it_lacks(obj, protocol, message):
    with pytest.raises(TypeError, match=message):
        check_contract(obj, protocol, "engine")
