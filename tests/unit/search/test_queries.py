"""Text queries: what is read, what is refused and where, what vectors they stand for."""

import random
from pathlib import Path

import numpy as np
import pytest

from seqvis.errors import QueryError, UnknownWordError
from seqvis.search.queries import Query, Term, encode_query, parse_query
from seqvis.search.query_words import function_words_of
from seqvis.vectors.store import WordVectors
from tests.support.wordstores import WORDS, write_store


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def no_suggestions(word: str) -> tuple[str, ...]:
    return ()


def encoded(text: str, vectors: WordVectors) -> np.ndarray:
    return encode_query(parse_query(text), vectors, unit, no_suggestions)


def raw(word: str, vectors: WordVectors) -> np.ndarray:
    vector = vectors.vector(word)
    assert vector is not None
    return vector.astype(np.float64)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("boat", [(1, "boat")]),
        ("engine + boat", [(1, "engine"), (1, "boat")]),
        ("engine+boat", [(1, "engine"), (1, "boat")]),
        ("boat - sail", [(1, "boat"), (-0.5, "sail")]),
        ("boat -sail", [(1, "boat"), (-0.5, "sail")]),
        ("boat - 1 * sail", [(1, "boat"), (-1, "sail")]),
        ("2 * dog - puppy", [(2, "dog"), (-0.5, "puppy")]),
        ("2*dog - .5*puppy", [(2, "dog"), (-0.5, "puppy")]),
        ("1e-3 * dog + 1E2 * cat", [(0.001, "dog"), (100, "cat")]),
        ("- sail + boat", [(-0.5, "sail"), (1, "boat")]),
        ("+ boat", [(1, "boat")]),
        ("fire   truck", [(1, "fire truck")]),
        ("red fire truck - 3 * small dog", [(1, "red fire truck"), (-3, "small dog")]),
        ("motor-boat", [(1, "motor-boat")]),
        ("motor - boat", [(1, "motor"), (-0.5, "boat")]),
        ("jack-in-the-box - box", [(1, "jack-in-the-box"), (-0.5, "box")]),
        ("2 dog", [(1, "2 dog")]),
        ("2 * 3", [(2, "3")]),
        ("0 * dog + cat", [(0, "dog"), (1, "cat")]),
        ('"c++" + "2 * dog"', [(1, "c++"), (1, "2 * dog")]),
        ('2 * "fire truck"', [(2, "fire truck")]),
        ('"fire  truck"', [(1, "fire truck")]),
        ("chien − été", [(1, "chien"), (-0.5, "été")]),
        ("e\u0301te\u0301-la", [(1, "été-la")]),
        ("“fire truck” – dog", [(1, "fire truck"), (-0.5, "dog")]),
        ("2 × dog", [(2, "dog")]),
        ("日本 + 犬", [(1, "日本"), (1, "犬")]),
        ("rock'n'roll\t+\nboat", [(1, "rock'n'roll"), (1, "boat")]),
    ],
)
def test_a_query_is_read_as_a_signed_sum_of_phrases(
    text: str, terms: list[tuple[float, str]]
) -> None:
    assert parse_query(text) == Query(tuple(Term(weight, phrase) for weight, phrase in terms))


@pytest.mark.parametrize(
    "text",
    [
        *("dog.", "dog!", "(dog)", "[dog]", "#dog", "@dog", "'dog'", "‘dog’", "dog?", "¿dog?"),
        *(
            "dog…",
            "dog, ",
            "_dog_",
            "<dog>",
            "dog:",
            "/dog/",
            "$dog",
            "`dog`",
            "dog\u200b",
            "dog🐶",
        ),
        *("dog's", "a dog", "The dog", "& dog", "a photo of a dog", "Pictures with dog"),
        *("show me dog", "is there a dog in it?", "everything about the dog."),
    ],
)
def test_punctuation_and_function_words_say_nothing(text: str) -> None:
    assert parse_query(text) == Query((Term(1.0, "dog"),))


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("dog, cat", "dog + cat"),
        ("dog;cat", "dog + cat"),
        ("fire, truck", "fire + truck"),
        ("1,000 dogs", "1,000 dogs"),
        ("St. Bernard", "St Bernard"),
        ("犬、猫", "犬 + 猫"),
        ("picture frame", "picture frame"),
        ("the", '"the"'),
        ("the + dog", "dog"),
        ("🚢", "🚢"),
        ('"a photo of a dog"', '"a photo of a dog"'),
        ("not dog", "- 0.5 * dog"),
        ("dogs without cats", "dogs - 0.5 * cats"),
        ("dogs without cats and birds", "dogs - 0.5 * cats birds"),
        ("a dog, not a cat!", "dog - 0.5 * cat"),
        ("dog NOT cat", "dog - 0.5 * cat"),
        ("dog but no cat", "dog - 0.5 * cat"),
        ("dog except 2 * puppy", "dog - 2.0 * puppy"),
        ('dog without "fire truck"', "dog - 0.5 * fire truck"),
        ("neither boats nor trucks", "- 0.5 * boats - 0.5 * trucks"),
        ("a dog that isn't brown", "dog - 0.5 * brown"),
        ("a dog that isn’t brown", "dog - 0.5 * brown"),
        ("no people in the street", "- 0.5 * people + street"),
        ("woman without a hat on a beach", "woman - 0.5 * hat + beach"),
        ("forget me not", "forget"),
        ("no", '"no"'),
        ("no + cat", "cat"),
        ('"no parking"', '"no parking"'),
        ("dog - 1 * cat", "dog - 1.0 * cat"),
    ],
)
def test_how_a_query_is_read_is_shown(text: str, read: str) -> None:
    assert str(parse_query(text)) == read
    assert parse_query(read) == parse_query(text)


@pytest.mark.parametrize(
    ("sentence", "query", "read"),
    [
        ("der die und in den von zu das mit sich", "ein Foto von einem Hund", "Hund"),
        ("der die und in den von zu das mit sich", "Hunde ohne Katzen", "Hunde - 0.5 * Katzen"),
        ("de la le et les des en un du une", "une photo d’un chien", "chien"),
        ("de la le et les des en un du une", "l'avion, pas la gare", "avion - 0.5 * gare"),
        ("de la que el en y a los se del", "una foto de un perro", "perro"),
        ("di e il la che in un a per è", "una foto dell'albero", "albero"),
        ("the of and to in a is for that", "die pan", "die pan"),
        ("der die und in den von zu das mit sich", "die Pfanne", "Pfanne"),
    ],
)
def test_function_words_are_those_of_the_vectors_language(
    sentence: str, query: str, read: str, tmp_path: Path
) -> None:
    words = sentence.split()
    grammar = function_words_of(write_store(tmp_path / "v", words, np.ones((len(words), 2))))
    assert str(parse_query(query, grammar)) == read


def test_a_minus_leaves_what_it_is_taken_from(tmp_path: Path) -> None:
    # As in real stores, dog and cat are near each other; anvil happens to be a little dog-like.
    matrix = np.array([[1.0, 0.3, 0], [1.0, -0.3, 0], [0.1, 0.9, 0.5]])
    store = write_store(tmp_path / "v", ["dog", "cat", "anvil"], matrix)
    pictures = unit(matrix)
    for text in ("dog - cat", "dog without cat", "a dog, not a cat"):
        scores = pictures @ encoded(text, store)
        assert scores.argmax() == 0
    assert (pictures @ encoded("not dog", store)).argmax() != 0
    assert (pictures @ encoded("cat - dog", store)).argmax() == 1


def test_parts_between_punctuation_stand_for_a_word_that_is_not_stored(
    vectors: WordVectors,
) -> None:
    mean = unit(raw("fire", vectors)) + unit(raw("truck", vectors))
    for text in ("fire/truck", "fire.truck", "fire&truck", "fire(truck)"):
        np.testing.assert_allclose(encoded(text, vectors), unit(mean), atol=1e-6)
    np.testing.assert_allclose(encoded('"dog."', vectors), unit(raw("dog", vectors)), atol=1e-6)


@pytest.mark.parametrize(
    ("text", "column", "problem"),
    [
        ("!!!", 4, "ends where a word is expected"),
        ("dog - not boat", 7, "second sign"),
        ("boat +", 7, "ends where a word is expected"),
        ("-", 2, "ends where a word is expected"),
        ("boat + + sail", 8, "second sign"),
        ("boat - 2 * -sail", 12, "second sign"),
        ("2 * * dog", 5, "needs a number before it"),
        ("* dog", 1, "needs a number before it"),
        ("dog * 2", 1, "dog is not a number"),
        ("fire 2 * dog", 8, "needs a number before it|a + or - is missing"),
        ("2 * 3 * dog", 7, "a + or - is missing|needs a number"),
        ('dog "fire truck"', 5, "a + or - is missing"),
        ('dog + "fire truck', 7, "not closed"),
        ('dog + "  "', 7, "nothing stands between"),
        ("dog + inf * cat", 7, "not finite"),
        ("NaN * cat", 1, "not finite"),
        ("1e999 * cat", 1, "not finite"),
        ("été + 1,5 * cat", 7, "is not a number"),
        ("dog + c\x00t", 8, "U+0000"),
        ("dog + c\udcfft", 8, "U+DCFF"),
        ("+".join(["a"] * 51), 101, "50 terms at most"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_column(
    text: str, column: int, problem: str
) -> None:
    with pytest.raises(QueryError) as caught:
        parse_query(text)
    message = str(caught.value)
    assert f"column {column}:" in message
    assert any(part in message for part in problem.split("|"))


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
def test_an_empty_query_is_refused(text: str) -> None:
    with pytest.raises(QueryError, match="is empty"):
        parse_query(text)


def test_an_overlong_query_is_refused_at_once() -> None:
    with pytest.raises(QueryError, match="100,000 characters; 1,000 at most"):
        parse_query("a" * 100_000)


def random_query(generator: random.Random) -> Query:
    letters = "ab-+*'\u00e9\u65e5 12.e\U0001f6a2"
    terms = []
    for _ in range(generator.randint(1, 5)):
        text = "".join(generator.choice(letters) for _ in range(generator.randint(1, 9)))
        phrase = " ".join(text.split()) or "x"
        weight = generator.choice([1.0, -1.0, 2.0, -0.5, 1e-7, 3e20, -0.0, generator.gauss(0, 5)])
        terms.append(Term(weight, phrase))
    return Query(tuple(terms))


def test_a_printed_query_reads_back_as_itself() -> None:
    for seed in range(500):
        query = random_query(random.Random(seed))
        assert repr(parse_query(str(query))) == repr(query)  # repr tells 0.0 from -0.0


def test_any_text_is_either_read_or_refused_with_a_message() -> None:
    letters = 'ab1. +-*"\u2013\u201c\u0301\x07e'
    for seed in range(500):
        generator = random.Random(seed)
        text = "".join(generator.choice(letters) for _ in range(generator.randint(1, 12)))
        try:
            query = parse_query(text)
        except QueryError as error:
            message = str(error)
        else:
            message = ""
            assert parse_query(str(query)) == query, text
        assert not message or "column" in message or "empty" in message, text


def test_a_query_is_the_weighted_sum_of_its_placed_phrases(vectors: WordVectors) -> None:
    for seed in range(100):
        check_weighted_sum(seed, vectors)


def check_weighted_sum(seed: int, vectors: WordVectors) -> None:
    generator = random.Random(seed)
    known = [word for word in WORDS if word.isalpha()]
    names = generator.sample(known, generator.randint(1, 5))
    text = ""
    for name in names:
        sign = generator.choice("+-")
        weight = generator.choice(["1 * ", "2 * ", "0.25 * ", "1e2 * "])
        text += f" {sign} {weight}{name}"
    middle = np.full(6, 0.7)  # stands for the centring that a model's `project_words` does

    def project(rows: np.ndarray) -> np.ndarray:
        return unit(rows - middle)

    values = {name: project(unit(raw(name, vectors))) for name in names}
    expected = eval(text, {}, values)  # Python's own reading of the sum
    point = encode_query(parse_query(text), vectors, project, no_suggestions)
    np.testing.assert_allclose(point, unit(expected), atol=1e-6)


def test_a_phrase_is_its_own_entry_if_there_is_one_else_the_mean_of_its_words(
    vectors: WordVectors,
) -> None:
    mean = unit(raw("fire", vectors)) + unit(raw("truck", vectors))
    np.testing.assert_allclose(encoded("fire truck", vectors), unit(mean), atol=1e-6)
    own = unit(raw("motor-boat", vectors))
    np.testing.assert_allclose(encoded("motor boat", vectors), own, atol=1e-6)
    np.testing.assert_allclose(encoded('"Motor Boat"', vectors), own, atol=1e-6)


def test_a_hyphenated_word_that_is_not_stored_is_the_mean_of_its_parts(
    vectors: WordVectors,
) -> None:
    mean = unit(raw("fire", vectors)) + unit(raw("engine", vectors))
    np.testing.assert_allclose(encoded("fire-engine", vectors), unit(mean), atol=1e-6)


@pytest.mark.parametrize("text", ["BOAT", "Boat", "boat"])
def test_a_word_is_found_in_another_case(text: str, vectors: WordVectors) -> None:
    np.testing.assert_allclose(encoded(text, vectors), unit(raw("boat", vectors)), atol=1e-6)
    np.testing.assert_allclose(encoded("paris", vectors), unit(raw("Paris", vectors)), atol=1e-6)


@pytest.mark.parametrize(
    "text",
    ["dog - dog", "dog - Dog", "0 * dog", "1e308 * dog - 1e308 * dog", "dog + sail - dog - sail"],
)
def test_terms_that_cancel_leave_nothing_to_look_for(text: str, vectors: WordVectors) -> None:
    with pytest.raises(QueryError, match="cancel to zero"):
        encoded(text, vectors)


def test_weights_of_any_finite_size_are_summed(vectors: WordVectors) -> None:
    equal = encoded("dog + boat", vectors)
    np.testing.assert_allclose(encoded("1e308*dog + 1e308*boat", vectors), equal, atol=1e-6)
    np.testing.assert_allclose(encoded("1e-300*dog + 1e-300*boat", vectors), equal, atol=1e-6)


@pytest.mark.parametrize("text", ["xyzzy", "dog + xyzzy", "fire xyzzy", "2 * dog - nothing"])
def test_a_word_without_a_vector_is_an_error_even_beside_known_ones(
    text: str, vectors: WordVectors
) -> None:
    with pytest.raises(UnknownWordError) as caught:
        encode_query(parse_query(text), vectors, unit, lambda word: (word + "s",))
    assert caught.value.word in ("xyzzy", "nothing")
    assert caught.value.suggestions == (caught.value.word + "s",)
    assert "did you mean" in str(caught.value)


def test_an_unknown_word_that_subwords_can_place_is_no_error(tmp_path: Path) -> None:
    store = write_store(tmp_path / "v", ["boat"], np.array([[1.0, 2, 3]]), subwords=True)
    np.testing.assert_allclose(encoded("xyzzy", store), np.full(3, 3**-0.5), atol=1e-6)
