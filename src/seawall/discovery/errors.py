"""What discovery raises. A registry that cannot be reached is never the caller's problem while something is still known."""

from __future__ import annotations

from seawall.core.errors import SeawallError


class RegistryError(SeawallError):
    """Base of the errors of registries."""


class RegistryUnavailable(RegistryError, ConnectionError):
    """The registry did not answer, or answered with an error of its own. Registrars and watchers try again by themselves."""


class ReadOnlyRegistry(RegistryError, TypeError):
    """This registry is filled by somebody else (the platform, a zone file, a person); the message says by whom."""


class Lost(RegistryError):
    """The registry no longer holds the record, its lease or its check: register again. Registrars do so by themselves."""


class Taken(Lost):
    """Another process has registered the same id since; it keeps the record while it lives."""


class Outdated(RegistryError):
    """The place to follow from is gone (compacted, too old, or the index went back): list again. Watchers do so."""
