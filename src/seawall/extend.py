"""What a policy of your own is made of. Public, under the same promise as the policies that come with Seawall.

Derive from `Guarding` for policies that ask for a permit, call, and settle; write the rule pure, with `start`, `admit` and
`settle`. docs/integrations/own-policy.md shows one, and `seawall.testing.conform` checks it.
"""

from seawall.core.outcome import Outcome, Verdict
from seawall.pipeline.cell import Cell
from seawall.pipeline.guarding import Guarding
from seawall.pipeline.held import Held
from seawall.pipeline.policy import Policy
from seawall.pipeline.run import Run
from seawall.policies.verdict import Events, Note, Permit, Rejection, Ticket, Wake

__all__ = [
    "Cell",
    "Events",
    "Guarding",
    "Held",
    "Note",
    "Outcome",
    "Permit",
    "Policy",
    "Rejection",
    "Run",
    "Ticket",
    "Verdict",
    "Wake",
]
