"""The reference of all config keys, written from the schemas.

``python -m convatlas.reference > config/README.md`` writes it anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from convatlas.schema import phrase, read_schema

Schema = Mapping[str, Any]

_HEAD = "| key | value | default | meaning |\n|---|---|---|---|"


def config_reference() -> str:
    """Return Markdown that documents every key of the config."""
    schema = read_schema("config")
    sections = {name: inner for name, inner in schema["properties"].items() if _is_section(inner)}
    parts = [
        "<!-- Written by `python -m convatlas.reference`; edit workflow/schemas instead. -->",
        "# The config, key by key",
        schema["description"],
    ]
    for name, section in sections.items():
        parts += _section(name, section)
    others = {k: v for k, v in schema["properties"].items() if k not in sections}
    parts += ["## Other keys", _table({"properties": others})]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _is_section(schema: Schema) -> bool:
    return schema.get("type") == "object"


def _section(name: str, section: Schema) -> Iterator[str]:
    yield f"## {name}"
    yield section["description"]
    for example in section.get("examples", ()):
        text = yaml.safe_dump({name: example}, sort_keys=False, default_flow_style=None, width=90)
        yield f"```yaml\n{text}```"
    entry = section.get("additionalProperties")
    groups = section.get("properties", {})
    if entry and "allOf" in entry:
        for rule in entry["allOf"]:
            yield from _group(f"source: {rule['then']['title']}", rule["then"])
    elif entry:
        yield _table(entry)
    elif all(_is_section(group) for group in groups.values()):
        for key, group in groups.items():
            yield from _group(key, group)
    else:
        yield _table(section)


def _group(title: str, schema: Schema) -> Iterator[str]:
    yield f"### {title}"
    yield schema["description"]
    if schema.get("properties"):
        yield _table(schema)


def _table(schema: Schema) -> str:
    return "\n".join([_HEAD, *_rows(schema, "")])


def _rows(schema: Schema, prefix: str) -> Iterator[str]:
    required = schema.get("required", ())
    for name, inner in schema["properties"].items():
        key = f"{prefix}{name}"
        if key == "source":
            continue  # the heading says it
        default = "required" if name in required else _literal(inner.get("default"))
        value = phrase(inner).replace("|", "\\|")
        yield f"| `{key}` | {value} | {default} | {inner['description']} |"
        if key != "analyses":  # has a section of its own
            yield from _rows({"properties": {}} | dict(inner), f"{key}.")


def _literal(value: Any) -> str:
    if value is None:
        return ""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


if __name__ == "__main__":
    print(config_reference(), end="")
