"""Random JSON schemas of many shapes, the same for the same seed, whose values are short enough to be met by chance."""

import random
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]
WORDS = ("name", "size", "kind", "größe", "x y", "tag", "id", "$ref?", 'a"b', "é")
PATTERNS = ("^[a-z]{2,5}$", "^(ab|cd)+[0-9]?$", "[0-9]{3}-[0-9]{2}", "^v[0-9]\\.[0-9]$", "^[^a-z\\s]{1,4}$")
MAX_DEPTH = 3


class SchemaMaker:
    """Makes one schema after the other."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)

    def schema(self) -> Schema:
        """A whole schema; a third of them have definitions that their parts refer to."""
        root = self._object(0) if self._draw.random() < 0.7 else self._any(0)
        if self._draw.random() < 0.33:
            tree: Schema = {
                "type": "object",
                "properties": {"v": self._scalar(), "next": {"$ref": "#/$defs/tree"}},
            }
            tree |= {"required": ["v"], "additionalProperties": False}
            leaf = self._scalar()
            part = self._draw.choice(({"$ref": "#/$defs/leaf"}, {"$ref": "#/$defs/tree"}))
            wrapped = {"type": "object", "properties": {"part": part, "rest": root}, "required": ["part"]}
            return wrapped | {"additionalProperties": False, "$defs": {"leaf": leaf, "tree": tree}}
        return root

    def _any(self, depth: int) -> Schema:
        makers: list[Callable[[], Schema]] = [self._scalar, self._scalar, self._choice]
        if depth < MAX_DEPTH:
            makers += [
                lambda: self._object(depth),
                lambda: self._array(depth),
                lambda: {"anyOf": [self._any(depth + 1) for _ in range(self._draw.randint(2, 3))]},
            ]
        return self._draw.choice(makers)()

    def _object(self, depth: int) -> Schema:
        names = self._draw.sample(WORDS, self._draw.randint(1, 4))
        schema: Schema = {"type": "object", "properties": {name: self._any(depth + 1) for name in names}}
        if self._draw.random() < 0.8:
            schema["required"] = self._draw.sample(names, self._draw.randint(1, len(names)))
        more = self._draw.random()
        if more < 0.75:
            schema["additionalProperties"] = False
        elif more < 0.9:
            schema["additionalProperties"] = {"type": "boolean"}
        return schema

    def _array(self, depth: int) -> Schema:
        low = self._draw.randint(0, 2)
        schema: Schema = {"type": "array", "items": self._any(depth + 1), "minItems": low}
        if self._draw.random() < 0.8:
            schema["maxItems"] = low + self._draw.randint(0, 3)
        if self._draw.random() < 0.3:
            schema["prefixItems"] = [self._scalar()]
        return schema

    def _choice(self) -> Schema:
        values: list[Any] = [
            "red",
            "grün",
            'quo"te',
            1,
            -2.5,
            10**12,
            True,
            None,
            "line\nbreak",
            [1, "a"],
            {"k": 0},
        ]
        if self._draw.random() < 0.4:
            return {"const": self._draw.choice(values)}
        return {"enum": self._draw.sample(values, self._draw.randint(1, 5))}

    def _scalar(self) -> Schema:
        makers = (self._string, self._string, self._integer, self._number, self._of_type)
        return self._draw.choice(makers)()

    def _of_type(self) -> Schema:
        return {"type": self._draw.choice(("boolean", "null", ["null", "boolean"], ["integer", "null"]))}

    def _string(self) -> Schema:
        what = self._draw.random()
        if what < 0.4:
            return {"type": "string", "pattern": self._draw.choice(PATTERNS), "maxLength": 24}
        low = self._draw.randint(0, 3)
        return {"type": "string", "minLength": low, "maxLength": low + self._draw.randint(0, 8)}

    def _integer(self) -> Schema:
        low = self._draw.randint(-1000, 1000)
        schema: Schema = {"type": "integer", self._draw.choice(("minimum", "exclusiveMinimum")): low}
        schema[self._draw.choice(("maximum", "exclusiveMaximum"))] = low + self._draw.randint(2, 5000)
        if self._draw.random() < 0.2:
            schema = {
                "type": "integer",
                "minimum": 0,
                "maximum": 10_000,
                "multipleOf": self._draw.randint(2, 30),
            }
        return schema

    def _number(self) -> Schema:
        low = self._draw.randint(-100, 100) / 4
        return {"type": "number", "minimum": low, "exclusiveMaximum": low + self._draw.randint(1, 400) / 8}
