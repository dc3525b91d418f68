"""JSON Schemas as the one home of a config's shape: defaults, and errors in plain words.

The files under ``workflow/schemas`` are JSON Schema (2020-12) in YAML, so editors
understand them. Of the ways to make a schema depend on a value, they use one: an
``allOf`` of ``if``/``then`` whose conditions exclude each other. Defaults and
messages can then follow the one case that holds.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, TypeChecker
from jsonschema.validators import extend

from convatlas.classes import one_line
from convatlas.errors import did_you_mean

SCHEMAS = Path(__file__).resolve().parent.parent / "schemas"

KeyPath = tuple[str | int, ...]
Error = Any  # jsonschema.ValidationError, whose fields are typed as perhaps unset

_SHOWN = 60  # characters of a value in a message
_MOST_VALUES = 20_000  # in a config, counted as often as an alias repeats them
_DEEPEST = 50  # mappings and lists within each other
_MOST_DIGITS = 2**63  # whole numbers from here on don't fit into 64 bits
_SPELT_ALIKE = 2**53  # floats up to here tell all whole numbers apart


@dataclass(frozen=True)
class Problem:
    """What is wrong with the value at a place, and how to mend it."""

    path: KeyPath
    text: str

    def __str__(self) -> str:
        return f"{dotted(self.path)}: {self.text}" if self.path else self.text


def dotted(path: Iterable[str | int]) -> str:
    """Return a key path as text, such as ``studies.demo.layers[2]``, on one line."""
    parts = (f"[{p}]" if isinstance(p, int) else f".{_cut(one_line(p))}" for p in path)
    return "".join(parts).removeprefix(".")


# ----------------------------------------------------------------------- reading


@cache
def read_schema(name: str) -> dict[str, Any]:
    """Return the schema ``{name}.schema.yaml`` with every ``$ref`` replaced by what it means."""
    schema: dict[str, Any] = _inline({"$ref": f"{name}.schema.yaml"}, document="")
    return schema


@cache
def _document(name: str) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    document: dict[str, Any] = yaml.load((SCHEMAS / name).read_bytes(), loader)
    del document["$schema"], document["$id"]
    return document


def _inline(node: Any, document: str) -> Any:
    if isinstance(node, list):
        return [_inline(item, document) for item in node]
    if not isinstance(node, dict):
        return node
    plain = {k: _inline(v, document) for k, v in node.items() if k not in ("$ref", "$defs")}
    if "$ref" not in node:
        return plain
    name, _, pointer = node["$ref"].partition("#")
    target: Any = _document(name or document)
    for part in pointer.split("/")[1:]:
        target = target[part]
    return _inline(target, name or document) | plain


# ---------------------------------------------------------------- plain values


def plain_copy(value: Any, path: KeyPath = ()) -> tuple[Any, list[Problem]]:
    """Return `value` in dicts, lists and scalars that JSON knows, and what had to be mended.

    YAML makes more than JSON has: keys that are no text, dates, infinities, halves of
    characters, mappings that contain themselves, and aliases that repeat each other until
    the values fill the memory.
    """
    plain = _Plain()
    return plain.copied(value, path, ()), plain.problems


class _Plain:
    """Copies values while it notes the problems and counts."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._count = 0

    def copied(self, value: Any, path: KeyPath, around: tuple[int, ...]) -> Any:
        if id(value) in around:
            return self._without(path, "contains itself. Write the values out.")
        if len(around) > _DEEPEST:
            return self._without(path, "is nested too deeply. Write it flat.")
        self._count += 1
        if self._count == _MOST_VALUES:
            return self._without(
                path[:1], "has too many values. Aliases (*) repeat each other: write them out."
            )
        if self._count > _MOST_VALUES:
            return None
        inside = (*around, id(value))
        if isinstance(value, Mapping):
            result = {}
            for key, item in value.items():
                name = key if isinstance(key, str) else show(key)
                here = (*path, name)
                if not isinstance(key, str):
                    self._without(here, _not_a_name(key))
                elif wrong := _not_a_text(key):
                    self._without(here, wrong)
                result[name] = self.copied(item, here, inside)
            return result
        if isinstance(value, list | tuple):
            return [self.copied(item, (*path, i), inside) for i, item in enumerate(value)]
        if wrong := _not_plain(value):
            return self._without(path, wrong)
        return value

    def _without(self, path: KeyPath, text: str) -> None:
        self.problems.append(Problem(path, text))


def _not_plain(value: Any) -> str:
    """Say what is wrong with a scalar, or nothing."""
    if isinstance(value, str):
        return _not_a_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not a finite number."
    if isinstance(value, int) and abs(value) >= _MOST_DIGITS:
        return "is a whole number beyond 64 bits. Give a smaller one."
    if value is None or isinstance(value, bool | int | float):
        return ""
    return f"{show(value)} is a {type(value).__name__}. If it is text, put it in quotes."


def _not_a_text(value: str) -> str:
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        return f"{show(value)} holds a character that no text or path can. Write it without."
    return ""


def _not_a_name(key: Any) -> str:
    if isinstance(key, bool):
        return "YAML reads yes, no, on and off as true and false. Put the name in quotes."
    return f"{show(key)} is not text. Put the name in quotes."


# ---------------------------------------------------------------------- defaults


def fill_defaults(value: Any, schema: Mapping[str, Any]) -> Any:
    """Return `value` with the schema's defaults where nothing is given.

    Keys come in the schema's order, those it has no names for in alphabetical order, so
    that their order in a file means nothing; what lies below keys that it doesn't describe
    stays as it is. Where it takes any number, a whole one is an int however it is spelt.
    """
    if isinstance(value, list):
        items = _of_lists(schema).get("items", {})
        return [fill_defaults(item, items) for item in value]
    if not isinstance(value, dict):
        return _spelt(value, schema)
    schema = _case(value, schema)
    properties = schema.get("properties", {})
    result = {}
    for name, inner in properties.items():
        if name in value:
            result[name] = fill_defaults(value[name], inner)
        elif "default" in inner:
            result[name] = fill_defaults(inner["default"], inner)
    others = schema.get("additionalProperties")
    for name in sorted(value.keys() - properties.keys()):
        described = fill_defaults(value[name], others) if isinstance(others, dict) else value[name]
        result[name] = copy.deepcopy(described)
    return result


def _of_lists(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a schema says of lists: itself, or that of its choices which is of them."""
    return next((s for s in schema.get("anyOf", ()) if s.get("type") == "array"), schema)


def _spelt(value: Any, schema: Mapping[str, Any]) -> Any:
    """Return a number as it is spelt without need: 30 for 30.0, where both are allowed."""
    whole = isinstance(value, float) and value.is_integer() and abs(value) <= _SPELT_ALIKE
    return int(value) if whole and "number" in _types(schema) else value


def _case(value: Any, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the ``then`` whose ``if`` holds, or `schema` itself."""
    for rule in schema.get("allOf", ()):
        if Draft202012Validator(rule["if"]).is_valid(value):
            return dict(rule["then"])
    return schema


# ----------------------------------------------------------------------- finding


def _is_whole(checker: TypeChecker, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)  # 8.0 is not 8 in a file name


_Validator = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_whole),
)


@cache
def _validator(name: str) -> Any:
    return _Validator(read_schema(name))


def find_problems(value: Any, name: str) -> list[Problem]:
    """Return all that the schema `name` finds wrong with a plain `value`, each once."""
    errors = _validator(name).iter_errors(value)
    return list(dict.fromkeys(problem for error in errors for problem in _explain(error, ())))


def _explain(error: Error, above: KeyPath) -> Iterator[Problem]:
    """Yield an error of jsonschema as problems; `above` is the path it is relative to."""
    path = (*above, *error.path)
    if "propertyNames" in error.schema_path:
        path = (*path, str(error.instance))
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        for key in error.instance:
            if key not in known:
                yield Problem((*path, key), f"unknown key.{_near(key, known)}")
    elif error.validator == "required":
        for key in error.validator_value:
            if key not in error.instance:
                yield Problem((*path, key), f"is missing. {_meaning(error.schema, key)}".rstrip())
    elif error.validator == "anyOf":
        yield from _explain_choice(error, path)
    else:
        yield Problem(path, _text(error))


def _explain_choice(error: Error, path: KeyPath) -> Iterator[Problem]:
    """Explain by the only branch of the value's type, unless that is a choice of words too."""
    value, branches = error.instance, error.validator_value
    fitting = [
        i
        for i, branch in enumerate(branches)
        if _Validator({"type": branch.get("type", "string")}).is_valid(value)
    ]
    if len(fitting) != 1 or _words(branches[fitting[0]]):
        yield Problem(path, _must_be(value, error.schema))
        return
    for inner in error.context or ():
        if inner.schema_path[0] == fitting[0]:
            yield from _explain(inner, path)


def _near(value: object, known: list[str]) -> str:
    hint = did_you_mean(value, known)
    if hint or not known:
        return hint
    return f" Known are {', '.join(known)}."


def _meaning(schema: Mapping[str, Any], key: str) -> str:
    return str(schema.get("properties", {}).get(key, {}).get("description", ""))


# ------------------------------------------------------------------------- words


def _text(error: Error) -> str:
    limit, value = error.validator_value, error.instance
    texts: dict[str, Callable[[], str]] = {
        "minimum": lambda: f"{show(value)} is less than the minimum of {limit}.",
        "exclusiveMinimum": lambda: f"{show(value)} must be greater than {limit}.",
        "maximum": lambda: f"{show(value)} is more than the maximum of {limit}.",
        "uniqueItems": lambda: f"{show(value)} has an item twice. Give each once.",
        "minProperties": lambda: f"is empty. Give at least {limit} under a name of your choice.",
        "minLength": lambda: "is an empty text. Give a value or delete the key.",
        "minItems": lambda: f"has {len(value)} items. Give {phrase(error.schema)}.",
        "maxItems": lambda: f"has {len(value)} items. Give {phrase(error.schema)}.",
        "not": lambda: f"{show(value)} is taken ({limit['description']}). Choose another name.",
    }
    explain = texts.get(str(error.validator))
    text = explain() if explain else _must_be(value, error.schema)
    if error.validator in ("minimum", "maximum") and "description" in error.schema:
        text = f"{text} {error.schema['description']}"
    return text


def _must_be(value: Any, schema: Mapping[str, Any]) -> str:
    if value is None:
        return f"is empty. Give {phrase(schema)}, or delete the key."
    return f"{show(value)} is not {phrase(schema)}.{_hint(value, schema)}"


def _hint(value: Any, schema: Mapping[str, Any]) -> str:
    types, words = _types(schema), _words(schema)
    if isinstance(value, str):
        if number := _as_number(value):
            if "integer" in types or "number" in types:
                return f" YAML reads it as text: write {number}."
            return ""
        return did_you_mean(value, words)
    if isinstance(value, bool | int | float) and "string" in types:
        return " If it is meant as text, put it in quotes."
    if isinstance(value, float) and value.is_integer() and "integer" in types:
        return f" Write {int(value)}."
    return ""


def _types(schema: Mapping[str, Any]) -> set[str]:
    given = schema.get("type", "string" if "enum" in schema or "const" in schema else [])
    types = {given} if isinstance(given, str) else set(given)
    return types.union(*(_types(branch) for branch in schema.get("anyOf", ())))


def _words(schema: Mapping[str, Any]) -> list[str]:
    """Return the texts that a schema allows, for offering near ones."""
    words = [*schema.get("enum", ())]
    if "const" in schema:
        words.append(schema["const"])
    for branch in schema.get("anyOf", ()):
        words += _words(branch)
    return [w for w in words if isinstance(w, str)]


def _as_number(text: str) -> str:
    """Return a number given as text as YAML would read it, or an empty text.

    YAML 1.1 takes ``1e-3`` for text because it has no point.
    """
    try:
        number = Decimal(text.strip())
    except InvalidOperation:
        return ""
    return f"{number:f}" if number.is_finite() and abs(number.adjusted()) < 20 else ""


def phrase(schema: Mapping[str, Any]) -> str:
    """Return in words what values a schema allows."""
    *others, last = _options(schema)
    return f"{', '.join(others)} or {last}" if others else last


def _options(schema: Mapping[str, Any]) -> list[str]:
    if "anyOf" in schema:
        return [option for branch in schema["anyOf"] for option in _options(branch)]
    if "const" in schema or "enum" in schema:
        return _words(schema)
    types = sorted(_types(schema) - {"null"})  # where null is allowed, so is leaving the key out
    if "title" in schema and types == ["string"]:
        return [schema["title"]]
    return [_NOUNS[t](schema) for t in types]


def _bounds(schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if above is not None and below is not None:
        return f" between {above} and {below}"
    if low is not None and high is not None:
        return f" from {low} to {high}"
    bounds = {
        "of at least": low,
        "greater than": above,
        "at most": high,
        "less than": below,
    }
    told = " and ".join(f"{words} {bound}" for words, bound in bounds.items() if bound is not None)
    return f" {'of ' * told.startswith('at most')}{told}" if told else ""


def _list(schema: Mapping[str, Any]) -> str:
    fixed = schema.get("minItems") if schema.get("minItems") == schema.get("maxItems") else None
    some = "one or more, " if schema.get("minItems") == 1 else ""
    count = f"of {fixed}, " if fixed else some
    return f"a list ({count}each {phrase(schema['items'])})"


_NOUNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "integer": lambda schema: f"a whole number{_bounds(schema)}",
    "number": lambda schema: f"a number{_bounds(schema)}",
    "string": lambda schema: "text",
    "boolean": lambda schema: "true or false",
    "array": _list,
    "object": lambda schema: "a mapping",
}


def show(value: Any, most: int = _SHOWN) -> str:
    """Return a value as a message shows it: as Python writes it, in `most` characters."""
    try:
        return _cut(repr(value), most)
    except ValueError:  # a whole number of thousands of digits
        return f"a very long {type(value).__name__}"


def _cut(text: str, most: int = _SHOWN) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
