"""The words every room uses: clock, outcome, errors, events, units, context. The ground floor: it imports no other room."""
