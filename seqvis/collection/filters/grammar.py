"""The text form of filters: `year >= 2020 and not (label in [dog, cat] or license.name missing)`.

    filter    = all { "or" all }
    all       = part { "and" part }
    part      = "not" part | "(" filter ")" | condition
    condition = field ( "=" | "!=" ) value
              | field ( "<" | "<=" | ">" | ">=" ) limit
              | limit ( "<" | "<=" | ">" | ">=" ) field [ the same direction, limit ]
              | field "between" limit "and" limit
              | field [ "not" ] "in" list | field "any" list | field "all" list
              | field "any" "(" filter ")"
              | field ( "exists" | "missing" )
    list      = "[" [ value { "," value } ] "]"
    value     = text in quotes | word | number | "true" | "false" | "null" | list
    limit     = text in quotes | number
    field     = word, of which any part may be between backticks, such as license.`short name`

A word ends at a space, a quote, and any of `= < > ! ( ) [ ] { } ,`. The grammar's own words may be
in capitals; they are no fields and no values unless they are quoted. Texts have the escapes of
JSON; a backtick between backticks is doubled.
"""

import json
import math
import re
from typing import Any, Literal, NamedTuple, cast

from seqvis.collection.filters.conditions import (
    And,
    AnyElement,
    Condition,
    Exists,
    Limit,
    Not,
    OneOf,
    Or,
    Within,
)
from seqvis.errors import FilterSyntaxError

DEPTH = 32  # of parentheses, lists and `not`

_BACKTICKS = re.compile(r"`((?:[^`]|``)*+)`")
_IN_WORD = r"""[^\s=<>!()\[\]{},"'`]"""
_TOKEN = re.compile(
    rf"""
      (?P<text> "(?:[^"\\]|\\.)*+" | '(?:[^'\\]|\\.)*+' )
    | (?P<name> (?: {_IN_WORD}*+ `(?:[^`]|``)*+` )++ {_IN_WORD}*+ )
    | (?P<sign> <= | >= | != | == | [=<>()\[\],] )
    | (?P<word> {_IN_WORD}++ )
    """,
    re.VERBOSE | re.DOTALL,
)
_SPACE = re.compile(r"\s*+")
_ESCAPE_OR_QUOTE = re.compile(r'\\.|"', re.DOTALL)
_NUMERIC = re.compile(r"[-+]?\.?[0-9]")
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)(e[-+]?[0-9]+)?", re.IGNORECASE)
_CONSTANTS = {"true": True, "false": False, "null": None}
_WORDS = {"and", "or", "not", "in", "any", "all", "between", "exists", "missing", *_CONSTANTS}
_RISING, _FALLING = ("<", "<="), (">", ">=")

_A_FIELD = "a field (`…` around one with spaces, or named like a word of the grammar)"
_AN_OPERATOR = "=, !=, <, <=, >, >=, between, in, not in, any, all, exists or missing"
_A_VALUE = 'a value (a number, true, false, null, a list, a word, or a text in quotes "…")'
_A_LIMIT = 'a number, or a text or date in quotes "…"'
_A_NUMBER = 'a number (a text or date needs quotes "…")'
_A_TEXT = "a text with the escapes of JSON (a backslash is \\\\)"
_AND_OR = "`and`, `or` or {} (a text of several words needs quotes)"


class _Token(NamedTuple):
    kind: Literal["text", "name", "sign", "word", "end"]
    text: str  # as it was given, but words of the grammar in small letters; "" at the end
    position: int


def parse(text: str) -> Condition:
    """Return the conditions that a text stands for.

    Raises FilterSyntaxError, which says where the text goes wrong and what was expected there.
    """
    parser = _Parser(text)
    condition = parser.read_filter()
    if parser.token.kind != "end":
        raise parser.error(_AND_OR.format("the end"))
    return condition


class _Parser:
    """Reads a text from left to right. `token` is the next one."""

    def __init__(self, text: str):
        self._text = text
        self._end = 0  # of the token
        self._depth = 0
        self._in_element = False
        self.token = self._next()

    def error(self, expected: str) -> FilterSyntaxError:
        return FilterSyntaxError(self._text, self.token.position, expected)

    def read_filter(self) -> Condition:
        parts = [self._read_all()]
        while self._took("or"):
            parts.append(self._read_all())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _read_all(self) -> Condition:
        parts = [self._read_part()]
        while self._took("and"):
            parts.append(self._read_part())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _read_part(self) -> Condition:
        if self._took("not"):
            self._go_deeper()
            condition: Condition = Not(self._read_part())
            self._depth -= 1
            return condition
        if self.token.text == "(":
            return self._read_parentheses()
        if self.token.kind == "text" or _NUMERIC.match(self.token.text):
            return self._read_range()
        return self._read_condition(self._read_field())

    def _read_parentheses(self) -> Condition:
        self._take("(", "(")
        self._go_deeper()
        condition = self.read_filter()
        self._take(")", _AND_OR.format(")"))
        self._depth -= 1
        return condition

    def _read_condition(self, field: str) -> Condition:
        if self._took("=") or self._took("=="):
            return OneOf(field, (self._read_value(),))
        if self._took("!="):
            return Not(OneOf(field, (self._read_value(),)))
        if self.token.text in _RISING:
            return Within(field, None, self._read_end())
        if self.token.text in _FALLING:
            return Within(field, self._read_end(), None)
        if self._took("between"):
            low = Limit(self._read_limit(), True)
            self._take("and", "`and` with the other limit")
            return Within(field, low, Limit(self._read_limit(low.value), True))
        if self._took("not"):
            self._take("in", "`in` with a list")
            return Not(OneOf(field, tuple(self._read_list())))
        if self._took("in"):
            return OneOf(field, tuple(self._read_list()))
        if self._took("any"):
            if self.token.text == "(":
                return self._read_element(field)
            return OneOf(field, tuple(self._read_list()))
        if self._took("all"):
            values = self._read_list(may_be_empty=False)
            return And(tuple(OneOf(field, (value,)) for value in values))
        if self._took("exists"):
            return Exists(field)
        if self._took("missing"):
            return Not(Exists(field))
        raise self.error(_AN_OPERATOR)

    def _read_element(self, field: str) -> Condition:
        if self._in_element:
            raise self.error("a list (`any (…)` does not go inside another)")
        self._in_element = True
        condition = AnyElement(field, self._read_parentheses())
        self._in_element = False
        return condition

    def _read_range(self) -> Condition:
        """Read `1 < field <= 2`, or as far as the field."""
        first = self._read_limit()
        direction = _RISING if self.token.text in _RISING else _FALLING
        if self.token.text not in direction:
            raise self.error("<, <=, > or >= with a field")
        begin = Limit(first, self._advance().text.endswith("="))
        field = self._read_field()
        end = self._read_end(first) if self.token.text in direction else None
        return Within(field, begin, end) if direction is _RISING else Within(field, end, begin)

    def _read_field(self) -> str:
        if self.token.kind == "name":
            name = self._advance().text
            return _BACKTICKS.sub(lambda part: part[1].replace("``", "`"), name)
        if self.token.kind == "word" and self.token.text not in _WORDS:
            return self._advance().text
        raise self.error(_A_FIELD)

    def _read_end(self, other: int | float | str | None = None) -> Limit:
        """Read one of < <= > >= and the limit after it."""
        included = self._advance().text.endswith("=")
        return Limit(self._read_limit(other), included)

    def _read_limit(self, other: int | float | str | None = None) -> int | float | str:
        """Read a number or a text, whichever the range's `other` limit is."""
        is_text = self.token.kind == "text"
        if not is_text and not _NUMERIC.match(self.token.text):
            raise self.error(_A_LIMIT)
        if other is not None and is_text != isinstance(other, str):
            raise self.error(
                "a number, like the other limit" if is_text else "a text, like the other limit"
            )
        return self._read_text() if is_text else self._read_number()

    def _read_value(self) -> Any:
        if self.token.kind == "text":
            return self._read_text()
        if self.token.text == "[":
            self._go_deeper()
            values = self._read_list()
            self._depth -= 1
            return values
        if self.token.text in _CONSTANTS:
            return _CONSTANTS[self._advance().text]
        if self.token.kind != "word" or self.token.text in _WORDS:
            raise self.error(_A_VALUE)
        return self._read_number() if _NUMERIC.match(self.token.text) else self._advance().text

    def _read_list(self, may_be_empty: bool = True) -> list[Any]:
        self._take("[", "a list, such as [dog, cat]")
        values: list[Any] = []
        if may_be_empty and self._took("]"):
            return values
        while not values or self._took(","):
            values.append(self._read_value())
        self._take("]", "`,` or `]`")
        return values

    def _read_number(self) -> int | float:
        digits = self.token.text
        number: int | float = math.nan
        if len(digits) <= 400:  # more digits have no place in a float, and Python is slow with them
            if _INTEGER.fullmatch(digits):
                number = int(digits)
            elif _DECIMAL.fullmatch(digits):
                number = float(digits)
        if not -math.inf < number < math.inf:
            raise self.error(_A_NUMBER)
        self._advance()
        return number

    def _read_text(self) -> str:
        quoted = self.token.text
        inner = quoted[1:-1]
        if quoted[0] == "'":  # JSON's quotes are double
            inner = _ESCAPE_OR_QUOTE.sub(_in_double_quotes, inner)
        try:
            text: str = json.loads(f'"{inner}"', strict=False)
            text.encode()  # fails for half of a surrogate pair
        except ValueError:
            raise self.error(_A_TEXT) from None
        self._advance()
        return text

    def _go_deeper(self) -> None:
        self._depth += 1
        if self._depth > DEPTH:
            raise self.error(f"at most {DEPTH} levels of parentheses, lists and `not`")

    def _took(self, word: str) -> bool:
        """Pass over the next token if it is this word or sign, and tell whether it was."""
        found = self.token.text == word
        if found:
            self._advance()
        return found

    def _take(self, word: str, expected: str) -> None:
        if not self._took(word):
            raise self.error(expected)

    def _advance(self) -> _Token:
        token, self.token = self.token, self._next()
        return token

    def _next(self) -> _Token:
        match = _SPACE.match(self._text, self._end)
        assert match is not None
        begin = match.end()
        if begin == len(self._text):
            return _Token("end", "", begin)
        token = _TOKEN.match(self._text, begin)
        if token is not None:
            self._end = token.end()
            kind = cast(Literal["text", "name", "sign", "word"], token.lastgroup)
            lower = token[0].lower()
            return _Token(kind, lower if lower in _WORDS else token[0], begin)
        if self._text[begin] in "\"'`":
            raise FilterSyntaxError(self._text, begin, f"a closing {self._text[begin]} after it")
        self._end = begin + 1
        return _Token("sign", self._text[begin], begin)  # none of the grammar's, so nobody takes it


def _in_double_quotes(match: re.Match[str]) -> str:
    return {"\\'": "'", '"': '\\"'}.get(match[0], match[0])
