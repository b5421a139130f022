"""The pictures are read back with Pillow, a reader that shares nothing with matplotlib."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from seqvis.errors import StorageError
from seqvis.plots.attention import attention_lines, attention_map
from seqvis.plots.figures import plot_curves, plot_learning_rates, plot_lengths
from seqvis.plots.style import save

HISTORY = [
    {"epoch": 1, "train_loss": 4.0, "loss": 3.5, "bleu": 10.0, "learning_rate": 1e-3},
    {"epoch": 2, "train_loss": 3.0, "loss": 2.9, "bleu": 22.0, "learning_rate": 3e-3},
    {"epoch": 3, "train_loss": 2.0, "loss": 3.1, "bleu": 20.0, "learning_rate": 1e-3},
]


def pixels(path: Path) -> NDArray[np.int64]:
    """(height, width, red-green-blue) of a picture that Pillow finds intact."""
    with Image.open(path) as picture:
        picture.verify()
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


def darkest(path: Path, tokens: int, *cells: tuple[int, int]) -> list[tuple[float, float]]:
    """Centres (y, x) of the cells that hold all the weight in otherwise equal pictures.

    What differs between the pictures is these cells alone: labels, grid and bar are the same.
    """
    centres, pictures = [], []
    for cell in cells:
        weights = np.zeros((tokens, tokens))
        weights[cell] = 1.0
        words = ["mot"] * tokens
        save(attention_map(weights, words, words), path)
        pictures.append(pixels(path))
    differs = (np.ptp(pictures, axis=0) > 0).any(axis=2)
    for picture in pictures:
        rows, columns = np.nonzero(differs & (picture.sum(axis=2) < 300))
        centres.append((rows.mean(), columns.mean()))
    return centres


@pytest.mark.parametrize("tokens", [4, 12, pytest.param(60, marks=pytest.mark.slow)])
def test_the_strongest_attention_cell_is_where_the_weight_is(tmp_path: Path, tokens: int) -> None:
    last = tokens - 1
    path = tmp_path / "attention.png"
    (top, left), (y, x), (bottom, right) = darkest(
        path, tokens, (0, 0), (1, tokens // 2), (last, last)
    )
    step = (right - left) / last
    assert step == pytest.approx((bottom - top) / last, rel=0.05)  # cells are squares
    assert step >= 15  # pixels: below this a label of nine points does not fit its row
    assert y == pytest.approx(top + step, abs=0.2 * step)  # target words go down
    assert x == pytest.approx(left + step * (tokens // 2), abs=0.2 * step)  # source words right


def test_attention_of_sixty_words_is_a_picture_of_bearable_size(tmp_path: Path) -> None:
    words = ["extraordinairement"] * 60
    save(attention_map(np.eye(60), words, words, "a title that is long " * 20), tmp_path / "a.png")
    height, width, _ = pixels(tmp_path / "a.png").shape
    assert 1000 < height < 2500
    assert 1000 < width < 2500


def test_attention_without_weight_is_a_pale_picture(tmp_path: Path) -> None:
    save(attention_map(np.full((5, 50), 0.02), ["où"] * 50, list("abcde")), tmp_path / "a.png")
    save(attention_map(np.full((5, 50), 0.25), ["où"] * 50, list("abcde")), tmp_path / "b.png")
    assert pixels(tmp_path / "a.png").mean() > pixels(tmp_path / "b.png").mean() + 5


def test_attention_of_one_token_is_drawn(tmp_path: Path) -> None:
    save(attention_map([[1.0]], ["où"], ["where"]), tmp_path / "a.png")
    assert (pixels(tmp_path / "a.png").sum(axis=2) < 300).any()


def test_words_with_accents_and_dollars_are_drawn_as_they_are(tmp_path: Path) -> None:
    words = ["sœur", "naïve", "Noël", "$x^2$", "$", "ça"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a glyph that the font lacks
        save(attention_map(np.eye(6), words, words, "Combien de $ ?"), tmp_path / "a.png")
    save(
        attention_map(np.eye(6), ["soeur", *words[1:]], words, "Combien de $ ?"), tmp_path / "b.png"
    )
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_each_word_has_a_line_of_its_own_in_a_grid_of_three_by_three(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(12)]
    even = np.full((12, 12), 1 / 12)
    save(attention_lines(even, words, words), tmp_path / "even.png")
    for word in (5, 7):
        weights = even.copy()
        weights[word] = np.eye(12)[3]
        save(attention_lines(weights, words, words), tmp_path / "peak.png")
        peak = pixels(tmp_path / "peak.png")
        rows, columns = np.nonzero((peak != pixels(tmp_path / "even.png")).any(axis=2))
        height, width, _ = peak.shape
        assert {*rows * 3 // height} == {word // 3}
        assert {*columns * 3 // width} == {word % 3}
    weights = even.copy()
    weights[9:] = np.eye(12)[:3]
    save(attention_lines(weights, words, words), tmp_path / "later.png")
    assert (tmp_path / "later.png").read_bytes() == (tmp_path / "even.png").read_bytes()


@pytest.mark.parametrize(
    ("weights", "source", "target"),
    [([[1.0, 0.0]], ["a"], ["b"]), ([[1.0]], [], ["b"]), (np.zeros((0, 1)), ["a"], [])],
)
def test_attention_that_does_not_fit_its_words_is_refused(tmp_path, weights, source, target):
    with pytest.raises(ValueError, match="attention"):
        save(attention_map(weights, source, target), tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_curves_show_each_metric_that_is_there_and_no_other(tmp_path: Path) -> None:
    plot_curves(
        tmp_path / "one.png", [{k: row[k] for k in ("epoch", "loss")} for row in HISTORY], 2
    )
    plot_curves(tmp_path / "all.png", HISTORY, 2)
    single, several = pixels(tmp_path / "one.png"), pixels(tmp_path / "all.png")
    assert several.shape[1] > 2 * single.shape[1]


def test_the_best_epoch_is_marked(tmp_path: Path) -> None:
    for best in (2, 3, None):
        plot_curves(tmp_path / f"{best}.png", HISTORY, best)
    assert len({(tmp_path / f"{best}.png").read_bytes() for best in (2, 3, None)}) == 3


def test_a_run_that_diverged_still_has_a_picture(tmp_path: Path) -> None:
    nan = float("nan")
    rows = [{"epoch": 1, "loss": 3.0, "bleu": nan}, {"epoch": 2, "loss": nan, "bleu": nan}]
    plot_curves(tmp_path / "a.png", rows, 1)
    plot_curves(tmp_path / "b.png", [{"epoch": 1, "loss": float("inf")}], 1)
    assert pixels(tmp_path / "a.png").std() > 1
    assert pixels(tmp_path / "b.png").std() > 1


def orange_share(picture: NDArray[np.int64]) -> float:
    red, _, blue = np.moveaxis(picture, 2, 0)
    return float(((red > 180) & (blue < 60)).mean())


def test_lengths_beyond_the_limit_are_marked(tmp_path: Path) -> None:
    counts = np.full(41, 100)
    plot_lengths(tmp_path / "few.png", counts, counts, 35, 35, "French", "English")
    plot_lengths(tmp_path / "many.png", counts, counts, 20, 20, "French", "English")
    plot_lengths(tmp_path / "none.png", counts, counts, 40, 40, "French", "English")
    few, many, none = (orange_share(pixels(tmp_path / f"{n}.png")) for n in ("few", "many", "none"))
    assert none == 0 < few < many
    assert many / few == pytest.approx(20 / 5, rel=0.25)  # bars of equal height


def test_a_single_very_long_sentence_does_not_flatten_the_histogram(tmp_path: Path) -> None:
    counts = np.zeros(5000)
    counts[5:25] = 1000
    counts[4999] = 1
    plot_lengths(tmp_path / "a.png", counts, counts, 24, 24, "French", "English")
    blue = pixels(tmp_path / "a.png")
    share = ((blue[..., 0] < 40) & (blue[..., 2] > 140)).mean()
    assert share > 0.2


def suggestion_column(path: Path) -> float:
    picture = pixels(path)
    red, _, blue = np.moveaxis(picture[: picture.shape[0] // 2], 2, 0)
    return float(np.nonzero((red > 180) & (blue < 60))[1].mean())


def test_the_suggested_rate_stands_where_the_logarithmic_axis_has_it(tmp_path: Path) -> None:
    rates = np.geomspace(1e-5, 1e-1, 50)
    losses = np.linspace(7, 4, 50)
    columns = []
    for suggestion in (1e-4, 1e-3, 1e-2):
        plot_learning_rates(tmp_path / "lr.png", rates, losses, losses, suggestion)
        columns.append(suggestion_column(tmp_path / "lr.png"))
    assert columns[1] - columns[0] == pytest.approx(columns[2] - columns[1], rel=0.03)
    assert columns[1] - columns[0] > 80


def test_the_explosion_at_the_end_does_not_hide_the_descent(tmp_path: Path) -> None:
    rates = np.geomspace(1e-5, 1, 40)
    losses = np.append(np.linspace(7, 4, 38), [1e6, np.nan])
    plot_learning_rates(tmp_path / "lr.png", rates, losses, losses, 1e-2)
    picture = pixels(tmp_path / "lr.png")
    rows = np.nonzero((picture[..., 0] < 20) & (picture[..., 2] > 160))[0]
    assert rows.max() - rows.min() > 0.5 * picture.shape[0]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nowhere"):
        plot_curves(tmp_path / "nowhere" / "a.png", HISTORY, 2)
