"""The same rules in virtual time: a kernel of events on which modelled clients and services run."""
