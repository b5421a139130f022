"""Requests and answers of the HTTP interface, as its OpenAPI document shows them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from serve.common.settings import Versions

LONGEST_ID = 4096
LONGEST_LIST = 12_800  # texts of a stream, whatever the limits are set to

Scalar = str | int | float | bool | None
Id = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_ID)]
ModelName = Annotated[str, StringConstraints(max_length=64)]


class Described(BaseModel):
    """A model whose fields the document describes by their docstrings."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Strict(Described):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class TranslateRequest(Strict):
    """Texts to translate, a sentence each."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "Où travaille ta sœur ?"},
                {"text": ["Où est le chat ?", "Qui chante ?"], "beam": 5, "n_best": 2},
            ]
        }
    )

    text: str | Annotated[list[str], Field(max_length=LONGEST_LIST)]
    """One text or many, each a sentence of 256 words and marks at most, by default."""
    beam: int = Field(1, ge=1, le=64)
    """Hypotheses kept while searching; 1 is greedy and fastest. The work grows with it, and a
    request's work is limited."""
    n_best: int = Field(1, ge=1, le=64)
    """Translations of each text, at most `beam`."""
    length_penalty: float = Field(1.0, ge=0, le=10)
    """Exponent of the length by which a beam's scores are divided; 0 favours short ones."""
    attention: bool = False
    """Also return which words each word was made from: n_best times the translation's words times
    the source's tokens weights. An answer may have 400,000 by default."""
    min_confidence: float | None = Field(None, ge=0, le=1)
    """Least confidence of a translation; one of less is refused. Left out, the server's own; 0
    refuses none."""
    model: ModelName | None = None
    """Name of a live version; left out, one is chosen by the shares."""
    stream: bool = False
    """Answer in lines of JSON (NDJSON), each translation as it ends."""
    partial: bool = False
    """In a stream, also send what is translated so far; for a long sentence not after each word.
    Nothing is sent so while `min_confidence` may still refuse it."""


class Candidate(Described):
    text: str
    tokens: list[str]
    score: float
    """Sum of the words' log probabilities over the length penalty, in nats."""
    complete: bool
    """False if it was cut because it did not end."""
    attention: list[list[float]] | None
    """For each token the weight of each source token; the last column is the end of the text."""


class Translation(Described):
    source: str
    source_tokens: list[str]
    unknown_words: list[str]
    """Words of the source that the model has not learnt, as written; it copies what it can."""
    confidence: float | None
    """Probability that the best translation is good, which means: a sentence chrF of 60 or more
    against a person's. It holds for texts like those that the model was validated on; null if the
    model was not calibrated."""
    refused: str | None
    """Why there is no translation: the confidence is below `min_confidence`. A single text that is
    not streamed gets 422 `unsure` instead."""
    text: str | None
    """The best translation; null if it was refused."""
    candidates: list[Candidate]


class TranslateAnswer(Described):
    model: str
    translations: list[Translation]


class _Search(Strict):
    k: int = Field(10, ge=1, le=1000)
    """Most pictures to find."""
    min_score: float | None = Field(None, ge=-1, le=1)
    """Least cosine of a picture that counts."""
    where: dict[str, Scalar | list[Scalar]] | str | None = None
    """Only pictures whose metadata has these values; of a list any will do. A picture whose own
    value is a list has each of its values. Or a text: `year >= 2020 and not label in [dog, cat]`,
    `license.name = "CC0"`, `tags all [red, blue]`, `2010 <= year < 2020`, `taken missing`."""


class _SearchRequest(_Search):
    model: ModelName | None = None
    """Name of a live version; left out, one is chosen by the shares."""


class SearchTextRequest(_SearchRequest):
    """Words, or a signed sum of words."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"query": "engine + boat", "k": 5},
                {"query": "boat", "where": "width >= 8 and not name in [dog, cat]"},
            ]
        }
    )

    query: str = Field(max_length=1000)
    """`boat`, `engine + boat`, `2 * dog - puppy`, `fire truck`, `dogs without cats`."""


class SearchLikeRequest(_SearchRequest):
    """A stored picture, to find pictures like it."""

    id: Id
    """The picture's id; it is not among the matches."""


class BatchedSearch(_Search):
    """A search by words or by a stored picture, one of several."""

    query: Annotated[str, Field(max_length=1000)] | None = None
    """As of /v1/search/text."""
    id: Id | None = None
    """As of /v1/search/like."""


class SearchBatchRequest(Strict):
    """Several searches. Their `k` together are limited as that of one search is."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"searches": [{"query": "boat", "k": 5}, {"query": "dogs without cats"}]}]
        }
    )

    searches: list[BatchedSearch] = Field(min_length=1)
    model: ModelName | None = None
    """Name of a live version; left out, one is chosen by the shares."""


class Match(Described):
    id: str
    score: float
    """Cosine with the query, -1 to 1."""
    metadata: dict[str, Any]
    image: str
    """Where its thumbnail is."""


class SearchAnswer(Described):
    model: str
    matches: list[Match]


class SearchTextAnswer(SearchAnswer):
    read_as: str
    """The signed sum that was searched for: `a photo of a dog, not a cat` is `dog - 0.5 * cat`."""


class BatchedProblem(Described):
    """Why one of several cannot be done, as in the error of a single request."""

    code: str
    message: str

    model_config = ConfigDict(extra="allow")


class BatchedAnswer(Described):
    """Either `read_as` and `matches`, or `error`."""

    read_as: str | None = None
    matches: list[Match] | None = None
    error: BatchedProblem | None = None


class SearchBatchAnswer(Described):
    model: str
    results: list[BatchedAnswer]
    """In the order of the searches."""


class Word(Described):
    word: str
    labels: list[str]
    score: float


class ClassifyAnswer(Described):
    model: str
    words: list[Word]


class Picture(Described):
    id: str
    metadata: dict[str, Any]
    image: str
    """Where its thumbnail is."""


class PicturesAnswer(Described):
    model: str
    images: list[Picture]
    next: str | None
    """To be given as `after` for the next page; null after the last."""


class NewPicture(Strict):
    """What to store with a picture, each as the field of this name of POST /v1/images."""

    id: Id | None = None
    label: Annotated[str, Field(max_length=200)] | None = None
    name: Annotated[str, Field(max_length=200)] | None = None
    metadata: dict[str, Any] | None = None


class AddedPicture(Described):
    id: str | None
    status: Literal["added", "replaced", "refused"]
    image: str | None = None
    error: BatchedProblem | None = None
    """Why it was refused."""


class AddBatchAnswer(Described):
    results: list[AddedPicture]
    """In the order of the files."""
    added: int
    """How many are stored now; the others were refused."""


class AddAnswer(Described):
    id: str
    image: str


class DeleteAnswer(Described):
    id: str
    deleted: Literal[True]


class LiveVersion(Described):
    name: str
    path: str | list[str]
    share: float
    ready: bool
    """Whether a replica has loaded it."""
    about: dict[str, Any]


class LiveApplication(Described):
    versions: list[LiveVersion]
    refused: dict[str, str]
    """Versions that are wanted and cannot be loaded, with the reason."""


class ModelsAnswer(Described):
    translator: LiveApplication | None
    search: LiveApplication | None


class ChangeModels(Versions):
    """The versions to make live, in place of the present ones."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "versions": [
                        {"name": "june", "path": "/models/june", "share": 0.9},
                        {"name": "july", "path": "/models/july", "share": 0.1},
                    ]
                }
            ]
        }
    )


class Problem(Described):
    code: str
    """One word for programs: overloaded, unknown_word, bad_picture, …"""
    message: str
    """A sentence for people."""
    request_id: str

    model_config = ConfigDict(extra="allow")


class ErrorAnswer(Described):
    """Every error has this form."""

    error: Problem


def answers(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """Return what the OpenAPI document says of a route that writes its answer as JSON itself."""
    return {200: {"model": model, "description": "Done"}}
