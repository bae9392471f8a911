"""What a setting's text may be: each kind knows what is allowed, says it in words and turns the text into a value."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, Protocol, TypeVar
from urllib.parse import urlsplit

T_co = TypeVar("T_co", covariant=True)

#: What Airflow takes for yes and no (``getboolean`` of its configuration).
_FLAGS: Final[Mapping[str, bool]] = {
    **dict.fromkeys(("t", "true", "1"), True),
    **dict.fromkeys(("f", "false", "0"), False),
}
#: Characters of a name at most, as on the wire (``protocol/limits.py``).
MAX_NAME_CHARS: Final = 500
#: The types that Airflow's provider info knows (airflow/provider_info.schema.json).
AirflowType = Literal["string", "integer", "float"]


class NotAllowed(ValueError):
    """The text is not one that the setting can have. Says what it must be: "it must be …"."""


class Kind(Protocol[T_co]):
    """A kind of value."""

    @property
    def airflow_type(self) -> AirflowType:
        """Its type for Airflow's provider info."""

    @property
    def allowed(self) -> str:
        """What is allowed, in words that follow "it must be"; empty when everything is."""

    @property
    def metavar(self) -> str:
        """How ``--help`` calls the value."""

    def parse(self, text: str) -> T_co:
        """Return the value.

        :raises NotAllowed: it is none.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """Any text, or text that fits a pattern."""

    pattern: str = ".*"
    allowed: str = ""
    metavar: str = "TEXT"

    @property
    def airflow_type(self) -> AirflowType:
        """Its type for Airflow's provider info."""
        return "string"

    def parse(self, text: str) -> str:
        """Return the text."""
        if re.fullmatch(self.pattern, text, re.DOTALL) is None:
            raise NotAllowed(f"it must be {self.allowed}")
        return text


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def airflow_type(self) -> AirflowType:
        """Its type for Airflow's provider info."""
        return "string"

    @property
    def allowed(self) -> str:
        """The words."""
        return " or ".join(self.words)

    @property
    def metavar(self) -> str:
        """How ``--help`` calls the value."""
        return "|".join(self.words)

    def parse(self, text: str) -> str:
        """Return the word; capital letters do not count."""
        word = text.strip().lower()
        if word not in self.words:
            raise NotAllowed(f"it must be {self.allowed}")
        return word


@dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """The path of a folder."""

    allowed: str = ""
    metavar: str = "DIR"

    @property
    def airflow_type(self) -> AirflowType:
        """Its type for Airflow's provider info."""
        return "string"

    def parse(self, text: str) -> Path:
        """Return the path, with ``~`` filled in."""
        if not text:
            raise NotAllowed("it must be the path of a folder")
        return Path(text).expanduser()


@dataclass(frozen=True, kw_only=True, slots=True)
class Url:
    """A URL with a host."""

    schemes: tuple[str, ...]
    example: str

    @property
    def airflow_type(self) -> AirflowType:
        """Its type for Airflow's provider info."""
        return "string"

    @property
    def allowed(self) -> str:
        """Its form."""
        return f"of the form {self.example}"

    @property
    def metavar(self) -> str:
        """How ``--help`` calls the value."""
        return "URL"

    def parse(self, text: str) -> str:
        """Return the URL."""
        try:
            parts = urlsplit(text)
            usable = parts.scheme in self.schemes and bool(parts.hostname) and parts.port != 0
        except ValueError:  # No number, or none of a port.
            usable = False
        if not usable:
            raise NotAllowed(f"it must be {self.allowed}")
        return text


@dataclass(frozen=True, kw_only=True, slots=True)
class Number:
    """A number in a range."""

    least: float
    most: float = math.inf
    #: What it counts, in the plural; empty: nothing that has a name.
    unit: str = ""

    @property
    def airflow_type(self) -> AirflowType:
        """Its type for Airflow's provider info."""
        return "float"

    @property
    def allowed(self) -> str:
        """The range."""
        return f"a number{_range_of(self.least, self.most, self.unit)}"

    @property
    def metavar(self) -> str:
        """How ``--help`` calls the value."""
        return self.unit.upper() or "NUMBER"

    def parse(self, text: str) -> float:
        """Return the number."""
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and self.least <= number <= self.most):
            raise NotAllowed(f"it must be {self.allowed}")
        return number


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeNumber:
    """A whole number in a range."""

    least: int
    most: float = math.inf
    #: What it counts, in the plural; empty: nothing that has a name.
    unit: str = ""

    @property
    def airflow_type(self) -> AirflowType:
        """Its type for Airflow's provider info."""
        return "integer"

    @property
    def allowed(self) -> str:
        """The range."""
        return f"a whole number{_range_of(self.least, self.most, self.unit)}"

    @property
    def metavar(self) -> str:
        """How ``--help`` calls the value."""
        return self.unit.upper() or "NUMBER"

    def parse(self, text: str) -> int:
        """Return the number; ``60.0`` is one too, as Airflow reads it."""
        number = Number(least=self.least, most=self.most)
        try:
            value = number.parse(text)
        except NotAllowed:
            value = math.nan
        if not value.is_integer():
            raise NotAllowed(f"it must be {self.allowed}")
        return int(value)


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """Yes or no, in the words that Airflow takes."""

    allowed: str = "true or false"
    metavar: str = "true|false"

    @property
    def airflow_type(self) -> AirflowType:
        """Its type for Airflow's provider info."""
        return "string"

    def parse(self, text: str) -> bool:
        """Return which."""
        word = text.strip().lower()
        if word not in _FLAGS:
            raise NotAllowed(f"it must be {self.allowed}")
        return _FLAGS[word]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mode:
    """The permissions of a file, as chmod takes them."""

    allowed: str = "an octal number such as 0o640"
    metavar: str = "MODE"

    @property
    def airflow_type(self) -> AirflowType:
        """Its type for Airflow's provider info."""
        return "string"

    def parse(self, text: str) -> int:
        """Return the permissions, which may stand without their "0o"."""
        try:
            mode = int(text, 8)
        except ValueError:
            mode = -1
        if not 0 <= mode <= 0o7777:
            raise NotAllowed(f"it must be {self.allowed}")
        return mode


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """Names, separated by commas."""

    least: int = 0

    @property
    def airflow_type(self) -> AirflowType:
        """Its type for Airflow's provider info."""
        return "string"

    @property
    def allowed(self) -> str:
        """Their form."""
        return "one or more names, separated by commas" if self.least else "names, separated by commas"

    @property
    def metavar(self) -> str:
        """How ``--help`` calls the value."""
        return "A,B"

    def parse(self, text: str) -> tuple[str, ...]:
        """Return the names, each once, in their order."""
        names = tuple(dict.fromkeys(filter(None, map(str.strip, text.split(",")))))
        if len(names) < self.least:
            raise NotAllowed(f"it must be {self.allowed}")
        if any(len(name) > MAX_NAME_CHARS or not name.isprintable() for name in names):
            raise NotAllowed(f"each name must be readable and have {MAX_NAME_CHARS} characters at most")
        return names


@dataclass(frozen=True, kw_only=True, slots=True)
class NumberByName:
    """A number for each of some names: ``name=number``, separated by commas."""

    number: Number
    #: What the names are of, in the singular.
    what: str

    @property
    def airflow_type(self) -> AirflowType:
        """Its type for Airflow's provider info."""
        return "string"

    @property
    def allowed(self) -> str:
        """Its form."""
        return f"{self._form}, separated by commas, each {self.number.allowed}"

    @property
    def metavar(self) -> str:
        """How ``--help`` calls the value."""
        return f"{self._form.upper()},…"

    @property
    def _form(self) -> str:
        return f"{self.what}={self.number.unit}"

    def parse(self, text: str) -> Mapping[str, float]:
        """Return the number of each name."""
        numbers: dict[str, float] = {}
        for item in filter(None, map(str.strip, text.split(","))):
            name, _, number = (part.strip() for part in item.rpartition("="))
            try:
                value = self.number.parse(number)
            except NotAllowed:
                value = math.nan
            if not name or math.isnan(value):
                raise NotAllowed(f"it must be {self.allowed}, and {item!r} is not")
            if name in numbers:
                raise NotAllowed(f"it names {self.what} {name!r} twice")
            numbers[name] = value
        return MappingProxyType(numbers)


def _range_of(least: float, most: float, unit: str) -> str:
    of_what = f" of {unit}" if unit else ""
    if math.isinf(most):
        return f"{of_what}, at least {least:.15g}"
    return f"{of_what} from {least:.15g} to {most:.15g}"
