"""Hostile configs: whatever is taken is sound, and the way it is spelt changes nothing."""

from __future__ import annotations

import copy
import datetime
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from test_config import CONFIG, base, config, places, problems, without_presets

from convatlas.config import check_keys, load
from convatlas.errors import ConfigError
from convatlas.schema import find_problems, read_schema

__all__ = ["base"]  # a fixture

NAMES = [
    *("..", ".", "a/b", "/a", "a\\b", "con", "a b", "a\nb", "a\n", "-a", ".a", "~", "$HOME", "a:b"),
    *("{study}", "{a}", "*", "a*", "[a]", "%s", "<script>", "a'b", 'a"b', "é", "а", "a\u200bb"),
    *("\0", "\ud800", "", " ", "a" * 101, "a" * 300, "𝒶", "１", "results", "datasets", "models"),
    *("logs", "benchmarks", "a.b", "a..b", "1", "true", "a.", "0x1", "Models"),
]
TAKEN = ["con", "results", "a.b", "a..b", "1", "true", "a.", "0x1", "Models"]
RESERVED = ["datasets", "models", "logs", "benchmarks"]
SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", re.ASCII)

CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]|\n(?!  )")
NUMBERS = st.sampled_from(
    [0, 1, -1, 10**30, -(10**400), 2**31, 2**32, 2**63, 0.0, -0.0, 1e-320, 1e308, 8.0, 0.5]
)
VALUES = st.one_of(
    NUMBERS,
    st.sampled_from([float("nan"), float("-inf"), None, True, b"x", {1}, 1j]),
    st.sampled_from([datetime.date(2026, 1, 1), datetime.datetime(2026, 1, 1, 12)]),
    st.sampled_from(
        ["x" * 100_000, "\0", "\ud800", "", "auto", "random", "*", "8", "1e400", "\x1b"]
    ),
    st.sampled_from([{}, [], {"": 1}, [[]], {"a.b": {"c": [1]}}, {None: 1}, {True: 1}, (1, 2)]),
    st.sampled_from(NAMES),
)


def holder_of(raw: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        raw = raw[key]
    return raw


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a valid config with a few keys deleted, replaced, renamed, moved or copied."""
    raw = config()
    for _ in range(draw(st.integers(1, 3))):
        here = places(raw)
        if not here:
            break
        path = draw(st.sampled_from(here))
        holder = holder_of(raw, path)
        change = draw(st.sampled_from(["delete", "replace", "rename", "copy", "wrap"]))
        if change == "delete":
            del holder[path[-1]]
        elif change == "rename" and isinstance(holder, dict):
            holder[draw(st.sampled_from(NAMES) | st.text(max_size=3))] = holder.pop(path[-1])
        elif change == "copy":
            source = draw(st.sampled_from(here))
            holder[path[-1]] = copy.deepcopy(holder_of(raw, source)[source[-1]])
        elif change == "wrap":
            holder[path[-1]] = draw(st.sampled_from([lambda v: [v], lambda v: {"seed": v}]))(
                holder[path[-1]]
            )
        else:
            holder[path[-1]] = copy.deepcopy(draw(VALUES))
    return raw


def test_what_is_taken_is_sound(base: Path) -> None:
    taken: list[str] = []
    refused: list[str] = []

    @settings(max_examples=500, deadline=None, derandomize=True)
    @given(raw=configs())
    def check(raw: dict[str, Any]) -> None:
        try:
            complete = load(raw, base)
        except ConfigError as error:
            refused.append(str(error))
            return
        assert not find_problems(without_presets(complete), "config")
        assert json.loads(json.dumps(complete, allow_nan=False)) == complete
        json.dumps(complete, ensure_ascii=False).encode()
        for section in ("datasets", "models", "studies"):
            assert all(SAFE.fullmatch(name) for name in complete[section])
        assert not set(RESERVED) & complete["studies"].keys()
        for study in complete["studies"].values():
            assert study["model"] in complete["models"]
            assert study["dataset"] in complete["datasets"]
        again = load(without_presets(complete) | {"models": unset(complete["models"])}, base)
        assert repr(again) == repr(complete)
        taken.append(repr(complete))

    check()
    assert len(taken) > 30
    assert len(refused) > 100
    for text in refused:
        assert "Traceback" not in text
        assert not CONTROLS.search(text)
        assert max(map(len, text.split("\n"))) < 1000


def unset(models: dict[str, Any]) -> dict[str, Any]:
    """Return complete models without the keys that say that there is no value."""
    return {n: {k: v for k, v in m.items() if v is not None} for n, m in models.items()}


@pytest.mark.parametrize("section", ["datasets", "models", "studies"])
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_is_one_safe_part_of_a_path_or_refused(base: Path, section: str, name: str) -> None:
    raw = config()
    raw[section][name] = next(iter(raw[section].values()))
    safe = name in TAKEN or (section != "studies" and name in RESERVED)
    if safe:
        assert name in load(raw, base)[section]
        assert SAFE.fullmatch(name)
    else:
        (line, *_) = problems(raw, base)
        assert line.startswith(f"{section}.")


UNUSABLE = [
    ({"studies__demo__exhibits": 10**9}, "1000000000 is more than the maximum of 10000"),
    ({"shards": 10**9}, "shards: 1000000000 is more than the maximum of 10000"),
    ({"analyses__patches": {"per_unit": 10**9}}, "per_unit: 1000000000 is more than"),
    ({"analyses__embedding": {"perplexity": 1e308}}, "perplexity: 1e+308 is more than the"),
    ({"batch_size": 10**30}, "batch_size: is a whole number beyond 64 bits"),
    ({"seed": -(10**5000)}, "seed: is a whole number beyond 64 bits"),
    (
        {"models__mine__normalize": {"mean": [0, 0, 0], "std": [1e-320, 1, 1]}},
        "std[0]: 1e-320 is less than the minimum of 1e-06",
    ),
    (
        {"datasets__kept": {"source": "torchvision:X", "root": "\0", "download": True}},
        "'\\x00'",
    ),
    ({"models__mine__options": {"a": "\ud800"}}, "options.a: '\\ud800' holds a character"),
    ({"models__mine__options": {"a": {"b\0": 1}}}, "options.a.b\\x00: 'b\\x00' holds a"),
    ({16**5000: 1}, "a very long int: a very long int is not text"),
    ({"x\x1b[31m\ny": 1}, "x\\x1b[31m\\ny: unknown key"),
    ({"x" * 10_000: 1}, "xxx...: unknown key"),
]


@pytest.mark.parametrize(("changes", "message"), UNUSABLE, ids=[ascii(m)[:30] for _, m in UNUSABLE])
def test_a_value_that_no_job_could_use_is_refused(
    base: Path, changes: dict[str, Any], message: str
) -> None:
    named = {key: value for key, value in changes.items() if isinstance(key, str)}
    raw = config(**named) | {k: v for k, v in changes.items() if k not in named}
    assert any(message in line for line in problems(raw, base))


def test_aliases_that_repeat_each_other_end(base: Path) -> None:
    """Ten lines of YAML that stand for 9^9 values, in lists or mappings."""
    for make in (lambda inner: [inner] * 9, lambda inner: {f"k{i}": inner for i in range(9)}):
        value: Any = 1
        for _ in range(9):
            value = make(value)
        for changes in ({"models__mine__options": {"a": value}}, {"analyses": {"a": value}}):
            assert any("too many values" in line for line in problems(config(**changes), base))


def test_nesting_has_an_end(base: Path) -> None:
    value: Any = 1
    for _ in range(5000):
        value = [value]
    assert any("nested too deeply" in line for line in problems(config(x=value), base))


# --------------------------------------------------------------------- spelling


def spelt_otherwise(value: Any, schema: dict[str, Any]) -> Any:
    """Return a value with floats for whole numbers where the schema takes any number."""
    choices = schema.get("anyOf", [schema])
    if isinstance(value, dict):
        for rule in schema.get("allOf", ()):
            if rule["if"]["properties"]["source"].get("const") == value.get("source"):
                schema = rule["then"]
        known, other = schema.get("properties", {}), schema.get("additionalProperties")
        rest = other if isinstance(other, dict) else {}
        return {k: spelt_otherwise(v, known.get(k, rest)) for k, v in reversed(value.items())}
    if isinstance(value, list):
        items = next((c["items"] for c in choices if "items" in c), {})
        return [spelt_otherwise(item, items) for item in value]
    numeric = any(
        choice.get("type") == "number" and "exclusiveMaximum" not in choice  # a share isn't any
        for choice in choices
    )
    return float(value) if numeric and isinstance(value, int) else value


def test_neither_the_spelling_of_numbers_nor_the_order_of_keys_matters(base: Path) -> None:
    raw = config(
        models__mine__normalize={"mean": [0, 1, 0.5], "std": [1, 2, 0.25]},
        models__mine__options={"b": 2, "a": 1, "c": {"z": 1, "y": 2.0}},
        models__small__train={"dataset": "shapes", "learning_rate": 1, "weight_decay": 0},
        analyses={
            "embedding": {"perplexity": 20, "early_exaggeration": 12},
            "occlusion": {"fill": [0, 128, 255], "size": [8, 16]},
        },
    )
    other = spelt_otherwise(raw, read_schema("config"))
    other["models"]["mine"]["options"] = {"c": {"z": 1, "y": 2.0}, "a": 1, "b": 2}
    assert repr(other).count(".0") > repr(raw).count(".0") + 8
    complete = load(raw, base)
    assert repr(load(other, base)) == repr(complete)
    options = complete["models"]["mine"]["options"]
    assert list(options) == ["a", "b", "c"]
    assert repr(options["c"]) == "{'z': 1, 'y': 2.0}"  # the user's own affair
    assert isinstance(complete["analyses"]["embedding"]["perplexity"], int)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(number=st.integers(1, 10_000) | st.floats(1, 10_000))
def test_a_number_keeps_its_value(base: Path, number: float) -> None:
    embedding = {"perplexity": number, "neighbours": 40_000}
    found = load(config(analyses__embedding=embedding), base)["analyses"]["embedding"]
    assert found["perplexity"] == number
    assert isinstance(found["perplexity"], int) == (number == int(number))


def test_a_float_is_still_no_whole_number(base: Path) -> None:
    (line,) = problems(config(batch_size=8.0), base)
    assert line.endswith("Write 8.")


# ------------------------------------------------------------------ keys given twice


def test_a_key_given_twice_is_named_with_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG + "studies:\n  other: {model: small, model: mine, dataset: shapes}\n")
    assert "demo" not in yaml.safe_load(path.read_text())["studies"]  # lost without a word
    with pytest.raises(ConfigError) as caught:
        check_keys([path])
    lines = path.read_text().split("\n")
    first, second = (i for i, line in enumerate(lines, start=1) if line.startswith("studies:"))
    head, *found = str(caught.value).split("\n  ")
    assert head == "The config gives a key twice:"
    assert found == [
        f"{path}, line {second}: studies is in line {first} too. Join the two, or delete one.",
        f"{path}, line {second + 1}: model is in line {second + 1} too. "
        "Join the two, or delete one.",
    ]


def test_keys_given_once_pass(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for text in (
        CONFIG,
        "a: &a {x: 1}\nb: {<<: *a, x: 2}\nc: {<<: [*a, *a]}\n",
        "a: &a [*a]\n",
        "a: {1: 1, '2': 2}\n",
        "",
        "a: [\n",
        "\tx",
        "[" * 3000,
        '{"a": {"b": 1},\t"b": 2}',
    ):
        path.write_text(text)
        check_keys([path])
    path.write_bytes(b"\xff\xfe\0")
    check_keys([path, tmp_path / "none.yaml"])
