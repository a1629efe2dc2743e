"""The warning categories, one per code, for filters: `warnings.filterwarnings("ignore", category=sw.warnings.SW003)`.

On a command line: `python -W error::seawall.warnings.SW010`. docs/warnings/ has a page for each code.
"""

from seawall.core.findings import (
    CATEGORIES,
    SW001,
    SW002,
    SW003,
    SW004,
    SW005,
    SW006,
    SW007,
    SW008,
    SW009,
    SW010,
    SW011,
    SW012,
    SW101,
    SW102,
    SW103,
    Finding,
    SeawallWarning,
)

__all__ = [
    "CATEGORIES",
    "SW001",
    "SW002",
    "SW003",
    "SW004",
    "SW005",
    "SW006",
    "SW007",
    "SW008",
    "SW009",
    "SW010",
    "SW011",
    "SW012",
    "SW101",
    "SW102",
    "SW103",
    "Finding",
    "SeawallWarning",
]
