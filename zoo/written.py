"""Parts of sampling as they are written in one word: a name, its settings, and the parts that it is made of.

    NAME[:VALUE,VALUE,SETTING=VALUE][+PART]...   "ngram", "ngram:4,2", "draft:MODEL,confident=0.3", "bandit+ngram+swift"

Values without a name are settings in their order.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from zoo.codecs.errors import UserError
from zoo.configs import suggestion


@dataclass(frozen=True)
class Written:
    """What was written of a part.

    Attributes:
        what: "proposer", "rule" or the like, for error messages.
        name: Of the part.
        values: Settings in order, and by name.
        parts: What it is made of, as it was written.
    """

    what: str
    name: str
    values: tuple[str, ...]
    named: Mapping[str, str]
    parts: tuple[str, ...]

    def refuse_parts(self) -> None:
        """
        Raises:
            UserError: It has parts, and is made of none.
        """
        if self.parts:
            raise UserError(f"the {self.what} {self.name} is not made of others; leave +{'+'.join(self.parts)} out")

    def made(self, kind: type, first: Mapping[str, Any] | None = None) -> Any:
        """A `kind` with these settings.

        Args:
            first: What it gets beside them, by name.

        Raises:
            UserError: It has no such setting, or takes no such value.
        """
        settings = self.settings(kind, first or {})
        try:
            return kind(**(first or {}), **settings)
        except (ValueError, ImportError) as error:
            raise UserError(f"{self.name}: {error}") from None

    def settings(self, kind: Callable[..., Any], given: Collection[str]) -> dict[str, Any]:
        """Values of the settings that `kind` takes, those given otherwise left out."""
        takes = {
            name: str(parameter.annotation)
            for name, parameter in inspect.signature(kind).parameters.items()
            if name not in given and {"int", "float", "str"} & set(str(parameter.annotation).split(" | "))
        }
        if len(self.values) > len(takes):
            known = f"takes {', '.join(takes)}" if takes else "takes no settings"
            raise UserError(f"the {self.what} {self.name} {known}; {','.join(self.values)!r} is more than that")
        found = dict(zip(takes, self.values, strict=False))
        for name, value in self.named.items():
            if name not in takes:
                raise UserError(f"the {self.what} {self.name} has no setting {name!r}{suggestion(name, takes)}")
            if name in found:
                raise UserError(f"the {self.what} {self.name} gets {name} twice; give it once")
            found[name] = value
        return {name: self._value(name, value, takes[name].split(" | ")) for name, value in found.items()}

    def _value(self, name: str, text: str, kinds: Collection[str]) -> Any:
        if "str" in kinds:
            return text
        try:
            return int(text) if "int" in kinds else float(text)
        except ValueError:
            wanted = "a whole number" if "int" in kinds else "a number"
            raise UserError(f"the setting {name} of the {self.what} {self.name} is {text!r}; give {wanted}") from None


def written(text: str, what: str, names: Collection[str]) -> Written:
    """The part that a text names.

    Args:
        what: See `Written`.
        names: Of all there are.

    Raises:
        UserError: It names none of them.
    """
    own, *parts = text.split("+")
    name, _, rest = own.partition(":")
    if name not in names:
        raise UserError(f"there is no {what} {name!r}{suggestion(name, names)}")
    values, named = [], {}
    for item in rest.split(",") if rest else ():
        key, is_named, value = item.partition("=")
        if is_named and key.isidentifier():
            named[key] = value
        else:
            values.append(item)
    return Written(what, name, tuple(values), named, tuple(parts))
