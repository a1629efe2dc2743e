"""What would surprise, as values: a code that never changes, how bad it is, why, and what to do.

Every code has one warning category of its own, so that each can be filtered by itself:
`warnings.filterwarnings("ignore", category=seawall.warnings.SW003)`. Every code has one page, docs/warnings/<code>.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal

from seawall.core.events import Event, everywhere

Severity = Literal["error", "warning", "note"]


class SeawallWarning(UserWarning):
    """Base of all warnings of Seawall. code: the category's own; title: what it says in a few words."""

    code: ClassVar[str] = ""
    title: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        cls.code = cls.__name__
        cls.title = (cls.__doc__ or "").split("\n", maxsplit=1)[0].rstrip(".")


class SW001(SeawallWarning):
    """On plain functions a Timeout hands a deadline over and interrupts nothing."""


class SW002(SeawallWarning):
    """A circuit breaker outside Retry opens after n calls, not n attempts."""


class SW003(SeawallWarning):
    """Retry without a budget: an outage is called as many times as there are attempts."""


class SW004(SeawallWarning):
    """The waits of Retry do not fit the outer limit."""


class SW005(SeawallWarning):
    """Hedge and Retry have no common budget."""


class SW006(SeawallWarning):
    """A Fallback answers for an open circuit too."""


class SW007(SeawallWarning):
    """A seat is held while the call inside waits for a token."""


class SW008(SeawallWarning):
    """A limit is no longer than the connect part inside it."""


class SW009(SeawallWarning):
    """A Retry repeats calls that nobody marked idempotent."""


class SW010(SeawallWarning):
    """A Retry runs inside another one, so their attempts multiply. Told at run time, once per inner Retry."""


class SW011(SeawallWarning):
    """The attempts with their own limits do not fit the outer limit."""


class SW012(SeawallWarning):
    """A limit is kept per process where many processes run."""


class SW101(SeawallWarning):
    """A setting names a pipeline or policy that does not exist."""


class SW102(SeawallWarning):
    """A variable or file looks like a setting of ours and is none."""


class SW103(SeawallWarning):
    """A named policy is used by no pipeline."""


CATEGORIES: Final[dict[str, type[SeawallWarning]]] = {
    category.code: category
    for category in (
        *(SW001, SW002, SW003, SW004, SW005, SW006, SW007, SW008, SW009, SW010, SW011, SW012),
        *(SW101, SW102, SW103),
    )
}
"""Every code with its category."""

_LEVELS: Final = {"error": 40, "warning": 30, "note": 20}  # those of `logging`, which is imported only to be used


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in a pipeline, or in the settings of one, that would surprise.

    code: stable, such as "SW001". severity: "error" for what can never work as written, "warning", or "note". policy: whose.
    reason: why. fix: what to do. page: where the docs say more.
    """

    code: str
    severity: Severity
    policy: str
    reason: str
    fix: str
    page: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "page", f"docs/warnings/{self.code}.md")

    @property
    def category(self) -> type[SeawallWarning]:
        """The warning category of its code."""
        return CATEGORIES[self.code]

    def __str__(self) -> str:
        return f"{self.severity} {self.code} {self.policy}: {self.reason} Fix: {self.fix} See {self.page}"


def tell(finding: Finding, at: float, *, pipeline: str | None = None, stacklevel: int = 2) -> None:
    """Tell everybody: the sinks that hear everything, the logger "seawall.warnings", and, but for notes, Python's warnings.

    The event "warning.raised" and the log record hold code, severity, reason, fix and page as fields. at: the moment, on the
    monotonic clock of whoever found it. Raises the finding's category where the user turned that warning into an error.
    """
    from logging import NullHandler, getLogger  # only here: importing seawall stays cheap
    from warnings import warn

    fields = {name: getattr(finding, name) for name in ("code", "severity", "reason", "fix", "page")}
    everywhere.emit(Event("warning.raised", finding.policy, at, pipeline, fields))
    logger = getLogger("seawall.warnings")
    if not logger.handlers:
        logger.addHandler(NullHandler())
    logger.log(_LEVELS[finding.severity], "%s", finding, extra={**fields, "policy": finding.policy, "pipeline": pipeline})
    if finding.severity != "note":
        warn(str(finding), finding.category, stacklevel=stacklevel + 1)
