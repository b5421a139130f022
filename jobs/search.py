"""Search a collection by words or a picture; name a picture."""

import json
import math
import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

from pydantic import Field, model_validator
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from seqvis.cli.job import JobSettings, leave, run_job
from seqvis.collection.filters.conditions import And, Condition, OneOf
from seqvis.collection.filters.grammar import parse
from seqvis.errors import ConfigError, FilterSyntaxError
from seqvis.search.engine import Matches, SearchEngine, printable
from seqvis.search.pictures import Word
from seqvis.search.requests import NameSet
from seqvis.storage import locate

_PAIR = re.compile(r"([^=<>!]*[^=<>!\s])=(.*)", re.DOTALL)  # key=value
_MORE_CONDITIONS = re.compile(r"\s(and|or)\s.*[=<>]", re.DOTALL | re.IGNORECASE)
_AROUND = 60  # characters of a filter that are shown on each side of a mistake


class Search(JobSettings):
    """Searches a collection by words, by a picture or by a stored one; or names a picture."""

    collection: str
    """Directory that build_index wrote."""
    text: str | None = None
    """Words, as a signed sum: boat, "engine + boat", "2 * dog - puppy", "fire truck", "dogs
    without cats". After a minus or a negation without a number, half is subtracted."""
    image: str | None = None
    """Picture file: find pictures like it."""
    like: str | None = None
    """Id of a stored picture: find others like it."""
    classify: str | None = None
    """Picture file, or id of a stored picture: find the words nearest to it."""
    k: int = Field(10, ge=1)
    """Results at most."""
    min_score: float | None = Field(None, ge=-1, le=1)
    """Least cosine of a picture that is found, from -1 to 1."""
    where: tuple[str, ...] = ()
    """Filters, all of which must hold: 'year >= 2020 and not label in [dog, cat]', 'license.name =
    "CC0"', 'tags all [red, blue]', 'year missing'. As label=n02084071, without other conditions and
    without a space before the equals sign, everything behind it is the value; of one key given so
    twice, either. A list holds each of its values. A field that no picture has is an error."""
    candidates: NameSet = "classes"
    """Words for --classify: classes (ImageNet's 1,000), wordnet (all nouns), labels (the
    model's own)."""
    model: str | None = None
    """The collection's model, if it was moved."""
    vectors: str | None = None
    """The collection's word vectors, if they were moved."""
    sheet: str | None = None
    """PNG file for a picture of what was found."""

    @model_validator(mode="after")
    def _one_query(self) -> "Search":
        queries = (self.text, self.image, self.like, self.classify)
        if sum(query is not None for query in queries) != 1:
            raise ValueError("give one of --text, --image, --like and --classify")
        if self.classify is not None and (self.where or self.min_score is not None or self.sheet):
            raise ValueError("--where, --min-score and --sheet do not go with --classify")
        return self


def run(settings: Search) -> dict[str, Any]:
    """Search and return the query with what it found; a table goes to standard error."""
    where = _filters(settings.where)
    read_as: dict[str, str] = {}
    with SearchEngine.open(settings.collection, settings.model, settings.vectors) as engine:
        started = time.perf_counter()
        if settings.classify is not None:
            words = _classify(engine, settings.classify, settings)
            results = [
                {"name": w.name, "labels": w.labels, "score": round(w.score, 4)} for w in words
            ]
            rows = [(f"{word.score:.3f}", word.name, " ".join(word.labels)) for word in words]
            query, title = settings.classify, _title(settings.classify)
        else:
            query, matches = _search(engine, settings, where)
            title = _title(query)
            if settings.text is not None:
                read = str(engine.words.read(query))
                read_as = {"read_as": read}
                title = query if read == query else f"{query} (read as: {read})"
            results = [{**m.metadata, "id": m.id, "score": round(m.score, 4)} for m in matches]
            rows = [(f"{m.score:.3f}", str(m.metadata.get("name", "")), m.id) for m in matches]
            if settings.sheet is not None:
                _draw(engine, settings.sheet, title, matches)
        milliseconds = round(1e3 * (time.perf_counter() - started), 2)
        _show(title, rows)
    return {"query": query, **read_as, "results": results, "milliseconds": milliseconds}


def _search(engine: SearchEngine, settings: Search, where: Condition | None) -> tuple[str, Matches]:
    limits = settings.k, settings.min_score, where
    if settings.text is not None:
        return settings.text, engine.text(settings.text, *limits)
    if settings.image is not None:
        return settings.image, engine.image(settings.image, *limits)
    assert settings.like is not None
    return settings.like, engine.like(settings.like, *limits)


def _classify(engine: SearchEngine, picture: str, settings: Search) -> list[Word]:
    stored = picture in engine.collection and not os.path.exists(picture)  # an id may be a URI
    content = picture if stored else locate(picture).read_bytes()
    return engine.classify(content, settings.k, settings.candidates)


def _filters(given: Sequence[str]) -> Condition | None:
    """Return the filters as one condition. Raises ConfigError that points at what is wrong."""
    values: dict[str, list[Any]] = {}
    conditions: list[Condition] = []
    for text in given:
        pair = _PAIR.fullmatch(text)
        try:
            condition = parse(text)
        except FilterSyntaxError as error:
            if pair is None or _MORE_CONDITIONS.search(pair[2]):
                raise ConfigError(f"--where: {error}\n{_pointing_at(error)}") from error
            condition = None
        if pair is not None and (condition is None or isinstance(condition, OneOf)):
            read = _meanings(pair[2]) or (condition.values if condition is not None else ())
            values.setdefault(pair[1], []).extend([pair[2], *read])
        elif condition is not None:
            conditions.append(condition)
    conditions += [OneOf(field, tuple(any_of)) for field, any_of in values.items()]
    return And(tuple(conditions)) if conditions else None


def _pointing_at(error: FilterSyntaxError) -> str:
    """Return the line of the filter that cannot be read, with a caret below the place."""
    before, after = error.text[: error.position], error.text[error.position :]
    line = printable(before.rpartition("\n")[2])[-_AROUND:]
    return f"  {line}{printable(after.partition(chr(10))[0])[:_AROUND]}\n  {' ' * cell_len(line)}^"


def _meanings(text: str) -> list[Any]:
    """Return the values that a text may stand for: JSON's, or TRUE, 07 and .5 as in CSV."""
    with suppress(ValueError, RecursionError):
        return [json.loads(text, parse_constant=_refuse, parse_float=_number)]
    if text.lower() in ("true", "false"):
        return [text.lower() == "true"]
    with suppress(ValueError):
        return [_number(text)]
    return []


def _number(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text}: JSON has no such number")


def _title(query: str) -> str:
    """Return the file name of a picture's path."""
    return query.rsplit("/", 1)[-1]


def _draw(engine: SearchEngine, sheet: str, query: str, matches: Matches) -> None:
    from seqvis.vision.contact_sheet import Cell, draw_contact_sheet  # loads matplotlib

    thumbnails = [engine.collection.thumbnail(match.id) for match in matches]
    cells = [Cell(*cell) for cell in zip(thumbnails, matches.captions(), strict=True)]
    if cells:
        draw_contact_sheet(locate(sheet), query, cells)


def _show(query: str, rows: Sequence[tuple[str, str, str]]) -> None:
    title = printable(query)
    table = Table("score", "name", "id", title=title if rows else f"{title}: nothing found")
    for row in rows:
        table.add_row(*map(printable, row))
    Console(stderr=True, markup=False, highlight=False).print(table)


main = partial(run_job, Search, run)

if __name__ == "__main__":
    leave(main())
