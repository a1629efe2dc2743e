"""What is checked when a saga class is defined, each with a message that names the step and the rule."""

from __future__ import annotations

import inspect
import types
import typing
from typing import Any

from seawall.core import units
from seawall.saga.codec import readable
from seawall.saga.context import Unknown
from seawall.saga.definition import FOREVER, Definition, Repeats, Saga, Step, hash_of
from seawall.saga.errors import DefinitionError
from seawall.saga.plan import Graph, Node


def define(cls: type[Saga[Any, Any]], steps: dict[str, Step[Any]], scope: dict[str, Any]) -> Definition:
    """A saga class as data. Raises DefinitionError for the first rule it breaks."""
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not 1 <= len(name) <= 100:
        raise DefinitionError(f'{cls.__qualname__} needs a name of 1 to 100 characters: name = "place-order"; got {name!r}')
    if isinstance(cls.version, bool) or not isinstance(cls.version, int) or cls.version < 1:
        raise DefinitionError(f"{name}: version must be a whole number >= 1; got {cls.version!r}")
    nodes = _sorted(name, {step.name: step.node() for step in steps.values()})
    graph = Graph(tuple(nodes), units.whole("returns", cls.returns, least=0))
    _check_pivot(name, graph, steps)
    for step in steps.values():
        _check_step(name, step, graph)
    given, wanted = _arguments(cls)
    results = {step.name: _check_types(name, step, given, scope) for step in steps.values()}
    last = _check_output(name, cls, graph, results, wanted, scope)
    deadline = None if cls.deadline is None else units.seconds("deadline", cls.deadline)
    has_output = getattr(cls, "output", None) is not None
    hashed = hash_of(name, cls.version, graph)
    return Definition(
        cls, name, cls.version, graph, {node.name: steps[node.name] for node in nodes}, hashed, given, wanted, results,
        deadline, has_output, last,
    )  # fmt: skip


def _sorted(saga: str, nodes: dict[str, Node]) -> list[Node]:
    """The nodes, each after those it waits for, else as they were written."""
    for node in nodes.values():
        for above in node.after:
            if above not in nodes:
                raise DefinitionError(f"{saga}: step {node.name!r} comes after {above!r}, which is no step of this saga")
    found: list[Node] = []
    placed: set[str] = set()
    while len(found) < len(nodes):
        free = [node for node in nodes.values() if node.name not in placed and placed.issuperset(node.after)]
        if not free:
            left = sorted(set(nodes) - placed)
            raise DefinitionError(f"{saga}: the steps {', '.join(left)} wait for each other in a circle")
        found.append(free[0])
        placed.add(free[0].name)
    return found


def _check_pivot(saga: str, graph: Graph, steps: dict[str, Step[Any]]) -> None:
    pivots = [node.name for node in graph.nodes if node.pivot]
    if len(pivots) > 1:
        raise DefinitionError(f"{saga}: {' and '.join(pivots)} are both the pivot; there is one point of no return")
    if not pivots:
        return
    pivot = pivots[0]
    behind, before = graph.dependents[pivot], graph.ancestors[pivot]
    for node in graph.nodes:
        if node.name in behind and not node.retriable and node.kind == "step":
            raise DefinitionError(
                f"{saga}: step {node.name!r} comes after the pivot {pivot!r}, from where there is no way back: "
                "make it retriable=True"
            )
        if node.name in behind and steps[node.name].options.rejects:
            raise DefinitionError(f"{saga}: step {node.name!r} comes after the pivot {pivot!r}, so nothing may reject it")
        if node.name not in behind | before | {pivot}:
            raise DefinitionError(
                f"{saga}: step {node.name!r} runs beside the pivot {pivot!r}; say with after= whether it comes before or after it"
            )
        if node.name in behind and node.kind == "signal" and steps[node.name].extra["length"] is not None:
            raise DefinitionError(f"{saga}: signal {node.name!r} comes after the pivot {pivot!r}, so it cannot time out")


def _check_step(saga: str, step: Step[Any], graph: Graph) -> None:
    options, node = step.options, graph.by_name[step.name]
    where = f"{saga}: step {step.name!r}"
    if step.kind == "saga":
        inner = getattr(step.extra["saga"], "definition", None)
        if inner is None:
            raise DefinitionError(f"{where} must name a Saga class with steps; got {step.extra['saga']!r}")
        if inner.graph.pivot is not None:
            raise DefinitionError(
                f"{where} is the saga {inner.name}, which has a pivot and so could not be taken back as one step"
            )
    if step.kind != "step":
        return
    if node.pivot and node.retriable:
        raise DefinitionError(f"{where} is pivot and retriable; a pivot decides, so it may be rejected")
    if node.retriable and options.rejects:
        raise DefinitionError(f"{where} is retriable, so it must succeed in the end and cannot have rejects")
    if options.nothing_to_undo and node.undo:
        raise DefinitionError(f'{where} says undo="none" and has an undo')
    behind = graph.pivot is not None and step.name in graph.dependents[graph.pivot.name]
    if not (node.undo or options.tx or options.nothing_to_undo or node.pivot or behind):
        raise DefinitionError(
            f'{where} cannot be taken back: give it an undo with @{step.name}.undo, say undo="none" if there is nothing to take '
            "back, or mark the point of no return with pivot=True"
        )
    if options.tx and (inspect.iscoroutinefunction(step.fn) or node.at_most_once or options.through is not None):
        raise DefinitionError(
            f"{where} is tx=True: it must be a plain `def`, is exactly once by itself, and calls nobody outside"
        )
    if node.pivot and not node.undo and not options.repeats.forever:
        rule = options.repeats.rule if options.repeats.rule.attempts > 1 else FOREVER
        step.options = _with(options, Repeats(rule, options.repeats.on, True, options.repeats.alert_after))  # noqa: FBT003


def _with(options: Any, repeats: Repeats) -> Any:
    import dataclasses

    return dataclasses.replace(options, repeats=repeats)


def _arguments(cls: type) -> tuple[Any, Any]:
    for base in cls.__mro__:
        for generic in vars(base).get("__orig_bases__", ()):
            if typing.get_origin(generic) is Saga:
                found = typing.get_args(generic)
                return found[0], found[1]
    return Any, Any


def _check_types(saga: str, step: Step[Any], given: Any, scope: dict[str, Any]) -> Any:
    """The type of the step's result, once everything around it fits."""
    where = f"{saga}: step {step.name!r}"
    if step.kind == "signal":
        result = step.extra["type"]
    elif step.kind == "saga":
        result = step.extra["saga"].definition.output_type
    elif step.fn is None:
        return type(None)
    else:
        hints = _hints(where, step.fn, scope)
        names = _positional(where, step.fn, 3, "(self, ctx, input)")
        _must_take(where, names[2], hints.get(names[2], Any), given, "the saga's input")
        result = hints.get("return", Any)
        _check_undo(where, step, given, result, scope)
    why = readable(result)
    if why is not None:
        raise DefinitionError(f"{where} returns what cannot be read back from the journal: {why}")
    if (why := readable(given)) is not None:
        raise DefinitionError(f"{saga}: its input cannot be read back from the journal: {why}")
    return result


def _check_undo(where: str, step: Step[Any], given: Any, result: Any, scope: dict[str, Any]) -> None:
    for undo in filter(None, (step.undo_fn, *step.alternates.values())):
        hints = _hints(f"{where}: its undo", undo, scope)
        names = _positional(f"{where}: its undo", undo, 4, "(self, ctx, input, result)")
        _must_take(f"{where}: its undo", names[2], hints.get(names[2], Any), given, "the saga's input")
        taken = hints.get(names[3], Any)
        if taken is not Any and Unknown not in _parts(taken):
            raise DefinitionError(
                f"{where}: its undo takes {names[3]}: {_show(taken)}; nobody may know the result, "
                f"so write {_show(taken)} | Unknown"
            )
        _must_take(f"{where}: its undo", names[3], taken, result, "the step's result")
    if step.probe_fn is not None:
        _positional(f"{where}: its probe", step.probe_fn, 3, "(self, ctx, input)")


def _check_output(  # noqa: PLR0917  # not public
    saga: str, cls: type, graph: Graph, results: dict[str, Any], wanted: Any, scope: dict[str, Any]
) -> str:
    lasts = [node.name for node in graph.nodes if not graph.dependents[node.name]]
    output = getattr(cls, "output", None)
    if output is not None:
        hints = _hints(f"{saga}: output", output, scope)
        _must_take(f"{saga}: output", "return", wanted, hints.get("return", Any), "what it returns")
        return ""
    if len(lasts) > 1:
        raise DefinitionError(
            f"{saga}: {' and '.join(lasts)} are all last steps, so it is not clear which result the saga has: "
            "write output(self, ctx, input)"
        )
    if wanted not in (None, type(None)):
        _must_take(f"{saga}: the saga's result", "it", wanted, results[lasts[0]], f"what its last step {lasts[0]!r} returns")
    return lasts[0]


def _hints(where: str, fn: Any, scope: dict[str, Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(fn, {**getattr(fn, "__globals__", {}), **scope})
    except NameError as error:
        raise DefinitionError(
            f"{where} has an annotation that cannot be resolved here: {error}; define that name first"
        ) from error


def _positional(where: str, fn: Any, count: int, shape: str) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = [name for name, parameter in inspect.signature(fn).parameters.items() if parameter.kind in kinds]
    if len(found) != count:
        raise DefinitionError(f"{where} must take {shape}; it takes ({', '.join(found)})")
    return found


def _must_take(where: str, name: str, taken: Any, given: Any, what: str) -> None:
    if not fits(given, taken):
        raise DefinitionError(f"{where} wants {name}: {_show(taken)}, but {what} is {_show(given)}")


def fits(given: Any, taken: Any) -> bool:
    """Whether a value of one type may stand where another is asked for, as far as this can be seen; doubt counts as yes."""
    if Any in (given, taken) or taken is object or isinstance(given, typing.TypeVar) or isinstance(taken, typing.TypeVar):
        return True
    given, taken = (type(None) if kind is None else kind for kind in (given, taken))
    if given == taken:
        return True
    if typing.get_origin(given) in (typing.Union, types.UnionType):
        return all(fits(part, taken) for part in typing.get_args(given))
    if typing.get_origin(taken) in (typing.Union, types.UnionType):
        return any(fits(given, part) for part in typing.get_args(taken))
    if given is int and taken is float:
        return True
    plain_given, plain_taken = typing.get_origin(given) or given, typing.get_origin(taken) or taken
    if not (isinstance(plain_given, type) and isinstance(plain_taken, type)):
        return True
    return issubclass(plain_given, plain_taken)


def _parts(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def _show(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)
