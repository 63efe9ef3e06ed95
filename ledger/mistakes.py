"""Describe what Pydantic finds wrong in a request, in the words of this project: the one place for that.

Pydantic's own texts speak of "inputs" and print regular expressions. Here every kind of error has a text that names
what is allowed, and if a name is unknown, the one that was probably meant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from pydantic_core.core_schema import ErrorType

from ledger.suggest import listed, nearest

ID_PATTERN: Final = r"^[0-9A-Fa-f]{8}[0-9A-Fa-f-]{0,28}$"
NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9._-]{0,62}$"
PARTITION_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
SHA256_PATTERN: Final = r"^[0-9a-f]{64}$"
VISIBLE_PATTERN: Final = r"^[\x21-\x7e]+$"
FORMS: Final[Mapping[str, str]] = {
    ID_PATTERN: "must be an id, such as 018f3c6e-7d2a-7c41-9b0e-2f5d8a1c4e77, or its first 8 characters or more",
    NAME_PATTERN: "must be 1 to 63 of a-z, 0-9, '.', '_' and '-', and begin with a letter or digit",
    PARTITION_PATTERN: "must be 1 to 63 of A-Z, a-z, 0-9, '.', '_' and '-', and begin with a letter or digit",
    SHA256_PATTERN: "must be a SHA-256 in hexadecimal, 64 of 0-9 and a-f, as sha256sum prints it",
    VISIBLE_PATTERN: "must be visible ASCII characters, without spaces",
}
"""The patterns of requests, in words."""

VALUE_SHOWN_MAX: Final = 40
_BUILT_IN: Final = frozenset(get_args(ErrorType))
_OTHERWISE: Final = "is not valid; /docs shows what this call takes"

Error = Mapping[str, Any]


def _fixed(text: str) -> Callable[[Error], str]:
    return lambda _error: text


def _context(error: Error) -> Mapping[str, Any]:
    return error.get("ctx") or {}


def _quoted(text: object) -> list[str]:
    return re.findall(r"'([^']*)'", str(text))


def _missing(error: Error) -> str:
    choices = error.get("known") or ()
    return f"is required: one of {listed(choices)}" if choices else "is required"


def _unknown_field(error: Error) -> str:
    name = str(error["loc"][-1])
    known = [field for field in error.get("known") or () if field != name]
    if meant := nearest(name, known):
        return f"is not a field here. Did you mean {meant}?"
    more = f"; the fields are {listed(known)}" if known else ""
    return f"is not a field here; remove it or check its spelling{more}"


def _not_a_choice(error: Error) -> str:
    expected = str(_context(error).get("expected", ""))
    choices = _quoted(expected)
    if not choices:
        return f"must be {expected.lower()}"
    value = error.get("input")
    end = f", not {shown(value)}" if value is not None else ""
    meant = nearest(value, choices) if isinstance(value, str) else None
    return f"must be {_any_of(choices)}{end}" + (f". Did you mean {meant}?" if meant else "")


def _no_tag(error: Error) -> str:
    known = error.get("known") or ()
    return f"is required: it names the kind, one of {listed(known)}" if known else "is required: it names the kind"


def _unknown_tag(error: Error) -> str:
    context = _context(error)
    tags = _quoted(context.get("expected_tags"))
    meant = nearest(str(context.get("tag", "")), tags)
    return f"must be one of {listed(map(repr, tags))}" + (f". Did you mean {meant}?" if meant else "")


def _pattern(error: Error) -> str:
    pattern, value = str(_context(error).get("pattern")), error.get("input")
    form = FORMS.get(pattern, "has another form than it must have; /docs shows an example")
    fit = _fitting(value, pattern) if pattern in (NAME_PATTERN, PARTITION_PATTERN) else None
    return form if fit is None else f"{form}: for example {fit}"


def _fitting(value: object, pattern: str) -> str | None:
    """Return the name that a text becomes if its other characters are replaced; None if nothing is left of it."""
    if not isinstance(value, str) or not 0 < len(value) <= 63:
        return None
    kept = re.sub(r"[^A-Za-z0-9._-]+", "-", value if pattern == PARTITION_PATTERN else value.lower()).strip("-._")
    return kept if re.fullmatch(pattern, kept) else None


def _length(bound: str, of: str) -> Callable[[Error], str]:
    words = {"min": "at least", "max": "at most"}[bound]

    def text(error: Error) -> str:
        length = int(_context(error).get(f"{bound}_length", 1))
        if bound == "min" and length == 1:
            return "must not be empty"
        return f"must have {words} {length} {of}"

    return text


def _bound(member: str, words: str) -> Callable[[Error], str]:
    return lambda error: f"must be {words} {_context(error).get(member)}"


_NUMBER: Final = _fixed("must be a number")
_WHOLE: Final = _fixed("must be a whole number")
_TEXT: Final = _fixed("must be a text")
_OBJECT: Final = _fixed("must be an object")
_ARRAY: Final = _fixed("must be an array")
_YES_OR_NO: Final = _fixed("must be true or false")
_TIME: Final = _fixed("must be an RFC 3339 time with its offset, such as 2030-01-01T00:00:00Z")
_ID: Final = _fixed("must be an id, such as 018f3c6e-7d2a-7c41-9b0e-2f5d8a1c4e77")

_TEXTS: Final[Mapping[str, Callable[[Error], str]]] = {
    "missing": _missing,
    "extra_forbidden": _unknown_field,
    "literal_error": _not_a_choice,
    "enum": _not_a_choice,
    "union_tag_not_found": _no_tag,
    "union_tag_invalid": _unknown_tag,
    "string_pattern_mismatch": _pattern,
    "string_too_short": _length("min", "characters"),
    "string_too_long": _length("max", "characters"),
    "too_short": _length("min", "items"),
    "too_long": _length("max", "items"),
    "greater_than": _bound("gt", "more than"),
    "greater_than_equal": _bound("ge", "at least"),
    "less_than": _bound("lt", "less than"),
    "less_than_equal": _bound("le", "at most"),
    "multiple_of": _bound("multiple_of", "a multiple of"),
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type", "mapping_type", "dataclass_type"), _OBJECT),
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "iterable_type"), _ARRAY),
    **dict.fromkeys(("string_type", "string_sub_type", "string_unicode"), _TEXT),
    **dict.fromkeys(("int_type", "int_from_float", "int_parsing", "int_parsing_size"), _WHOLE),
    **dict.fromkeys(
        ("float_type", "float_parsing", "decimal_type", "decimal_parsing", "finite_number", "is_instance_of"), _NUMBER
    ),
    **dict.fromkeys(("bool_type", "bool_parsing"), _YES_OR_NO),
    **dict.fromkeys(("uuid_type", "uuid_parsing", "uuid_version"), _ID),
    **dict.fromkeys(
        (
            *("timezone_naive", "timezone_aware", "timezone_offset", "datetime_type", "datetime_parsing"),
            *("datetime_object_invalid", "datetime_from_date_parsing"),
        ),
        _TIME,
    ),
    "none_required": _fixed("must be null"),
    "invalid_key": _fixed("must have texts as names"),
}


def message(error: Error) -> str:
    """Return what is wrong, to be read after the name of the field.

    error: as Pydantic lists it, with `known` from `described`. A text of our own validators stays as it is, except for
    what is certainly a batch size.
    """
    kind = error["type"]
    if kind in _TEXTS:
        return _TEXTS[kind](error)
    if kind in _BUILT_IN:
        return _OTHERWISE
    text = str(error["msg"])
    if kind == "number" and error["loc"] and error["loc"][-1] == "sample_rate" and "at most 1" in text:
        value = shown(error.get("input"))
        return f"{text}: {value} looks like a batch size. Give dataset_size, batch_size and epochs instead"
    return text


def shown(value: object) -> str:
    """Return a value of a request as a message repeats it: short, and in one line."""
    text = f"{value}" if isinstance(value, int | float) or type(value).__name__ == "Decimal" else repr(value)
    return text if len(text) <= VALUE_SHOWN_MAX else f"{text[: VALUE_SHOWN_MAX - 1]}…"


def _any_of(choices: Sequence[str]) -> str:
    names = [repr(choice) for choice in choices]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


# --- what a place of a request takes ----------------------------------------------------------------------------------


def described(errors: Iterable[Error], annotation: Any) -> Iterator[dict[str, Any]]:
    """Yield errors with `known`: the names or values that their place takes. annotation: what was validated; `loc`
    begins in it."""
    for error in errors:
        yield {**error, "known": _known(error, annotation)}


def _known(error: Error, annotation: Any) -> list[str]:
    location = error["loc"]
    match error["type"]:
        case "extra_forbidden":
            return [name for model in _reached(annotation, location[:-1]) for name in _fields(model)]
        case "missing":
            return [str(value) for place in _reached(annotation, location) for value in _choices(place)]
        case "union_tag_not_found":
            tags = (_tag(model) for model in _reached(annotation, location))
            return [tag for tag in tags if tag is not None]
        case _:
            return []


def _fields(annotation: Any) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(annotation, "model_fields", {})
    return fields


def _choices(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _tag(annotation: Any) -> str | None:
    field = _fields(annotation).get("type")
    choices = () if field is None else _choices(field.annotation)
    return str(choices[0]) if choices else None


def _reached(annotation: Any, location: Sequence[str | int]) -> list[Any]:
    """Return the types that a place of a value may have. A part of the location that is no place, such as the tag of a
    union, selects among them or is skipped."""
    reached = list(_alternatives(annotation))
    for part in location:
        inside = [place for one in reached for place in _members(one, part)]
        chosen = [one for one in reached if _tag(one) == part]
        reached = [other for place in inside for other in _alternatives(place)] or chosen or reached
    return reached


def _alternatives(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif get_origin(annotation) in (list, dict, Literal) or not get_args(annotation):
        yield annotation
    else:
        for one in get_args(annotation):
            yield from _alternatives(one)


def _members(annotation: Any, part: str | int) -> list[Any]:
    """Return the type of a member of an object or list; nothing if the type has none there."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is list and isinstance(part, int):
        return [arguments[0]]
    if origin is dict:
        return [arguments[1]]
    field = _fields(annotation).get(str(part))
    return [] if field is None else [field.annotation]
