"""Which modules the launcher imports ahead of the tasks: what is remembered of their imports, and what follows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

#: Tasks that must have imported a module before it counts as one that Dags import.
ENOUGH: Final = 2
#: Modules that are remembered at most; some libraries have a thousand.
MOST_MODULES: Final = 4000
#: Seconds after which a module is forgotten. Whether tasks still import what is there already, nobody sees, so it is
#: left to them now and then; two of them pay for it. What was refused gets its next chance: it may be a newer one.
KEPT_S: Final = 30 * 86400.0
#: Libraries with random numbers of their own, seeded once: tasks forked after that would all draw the same ones.
NEVER: Final = ("numpy", "torch", "tensorflow", "jax", "jaxlib", "cupy")


@dataclass(kw_only=True, slots=True)
class Module:
    """What is known of one module."""

    #: Tasks that imported it by themselves.
    seen: int
    #: When one last did, in Unix seconds.
    at: float
    #: Why it is not to be imported ahead; empty if it may be.
    refused: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What a task has imported by itself, in order."""

    installed: tuple[str, ...]
    #: Modules of the Dags' own folders.
    own: tuple[str, ...]

    def to_json(self) -> bytes:
        """Return it as JSON."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what :meth:`to_json` wrote.

        :raises ValueError: it is something else.
        """
        try:
            read = json.loads(data)
            return cls(installed=_names(read["installed"]), own=_names(read["own"]))
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a report of imports: {error}") from error


def _names(read: Iterable[Any]) -> tuple[str, ...]:
    return tuple(str(name) for name in read if str(name).replace(".", "_").isidentifier())


class Learned:
    """What tasks have imported so far."""

    def __init__(self, modules: dict[str, Module] | None = None) -> None:
        #: In the order in which tasks imported them: a library before its parts.
        self._modules = modules or {}

    @classmethod
    def from_json(cls, data: bytes, *, now: float) -> Self:
        """Read what :meth:`to_json` wrote, without what is too old; nothing, if it is something else.

        :param now: Unix time in seconds.
        """
        try:
            modules = {str(name): Module(**fields) for name, fields in json.loads(data).items()}
            kept = {name: module for name, module in modules.items() if 0 <= now - module.at < KEPT_S}
        except (ValueError, TypeError, AttributeError):
            return cls()
        return cls(kept)

    def to_json(self) -> bytes:
        """Return it as JSON."""
        return json.dumps({name: asdict(module) for name, module in self._modules.items()}).encode()

    def note(self, report: Report, *, now: float) -> None:
        """Take in what a task reports.

        :param now: Unix time in seconds.
        """
        for name in report.own:
            # Whichever is imported first stays: the installed one must not stand in the way of a Dag's.
            self.refuse(name, "a Dag has one of its own", now=now)
        for name in report.installed:
            module = self._get(name, now)
            if module is not None:
                module.seen, module.at = module.seen + 1, now

    def refuse(self, name: str, reason: str, *, now: float) -> None:
        """Never import a module, and so nothing inside it, ahead of the tasks.

        :param now: Unix time in seconds.
        """
        module = self._get(name, now)
        if module is not None:
            module.refused = reason

    def drop(self, names: Iterable[str]) -> None:
        """Forget modules: others bring them along."""
        for name in names:
            self._modules.pop(name, None)

    def _get(self, name: str, now: float) -> Module | None:
        if name not in self._modules and len(self._modules) >= MOST_MODULES:
            return None
        return self._modules.setdefault(name, Module(seen=0, at=now))

    def wanted(self) -> tuple[str, ...]:
        """Return what is worth importing ahead, in order."""
        return tuple(
            name for name, module in self._modules.items() if module.seen >= ENOUGH and not self.refused(name)
        )

    def refused(self, name: str) -> bool:
        """Tell whether a module, or a package around it, must not be imported ahead."""
        if name.partition(".")[0] in NEVER:
            return True
        return any(around in self._modules and self._modules[around].refused for around in _around(name))

    def settled(self, name: str) -> bool:
        """Tell whether no task need say any more that it imports a module."""
        return self.refused(name) or (name in self._modules and self._modules[name].seen >= ENOUGH)


def _around(name: str) -> Iterator[str]:
    """Return a module's name and those of the packages around it."""
    while name:
        yield name
        name = name.rpartition(".")[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """How importing modules in a process of their own went."""

    #: Those that did no harm and brought in something new, in order, each with its kilobytes.
    good: tuple[tuple[str, int], ...] = ()
    #: The one at which the trial ended, if it did before all were tried.
    bad: str = ""
    reason: str = ""

    @classmethod
    def from_lines(cls, lines: Iterable[str]) -> Self:
        """Read what the process wrote: a line when it begins with a module, and one when it is done with it."""
        good: list[tuple[str, int]] = []
        bad = reason = ""
        for line in lines:
            bad, _, rest = line.partition(" ")
            if not rest:
                reason = "importing it did not come to an end"
                continue
            kilobytes, _, reason = rest.partition(" ")
            if not reason:
                good.append((bad, int(kilobytes)))
                bad = ""
        return cls(good=tuple(good), bad=bad, reason=reason)
