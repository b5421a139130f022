"""The report of `prepare_corpus`, and the checks that stop it when nothing useful is left.

From the tallies and counts of a run come `report.json`, `lengths.png`, a table for people, and the
metrics of the manifest.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from seqvis.artifacts import ArtifactWriter
from seqvis.corpus.counts import PartCounts, WrittenPart, percentile_length
from seqvis.corpus.filters import Tally
from seqvis.corpus.inputs.source import PairSource
from seqvis.corpus.settings import PrepareSettings
from seqvis.corpus.spacing import Spacing
from seqvis.corpus.tokens import SIDES, Staged
from seqvis.errors import DataError
from seqvis.text.vocabulary import SPECIALS, Vocabulary

BAD_LINES = (
    ("source_not_utf8", "source_line_too_long"),
    ("target_not_utf8", "target_line_too_long"),
)
REMEDIES = {
    "blank": "both sides of a pair need text",
    "not_a_question": "drop --filter questions, or check --source-lang and --target-lang",
    "target_too_long": "raise --max-target-length",
    "length_ratio": "raise --max-length-ratio, or check that the lines belong together",
    "source_in_validation": "give other validation text",
    "source_line_too_long": "raise --max-line-bytes",
    "target_line_too_long": "raise --max-line-bytes",
}


@dataclass(frozen=True)
class Result:
    """Everything that a run counted and measured."""

    settings: PrepareSettings
    train: Staged
    valid: Staged | None
    counts: PartCounts
    limits: dict[str, int]
    vocabularies: dict[str, Vocabulary]
    written: tuple[WrittenPart, ...]
    spacing: Spacing | None
    seconds: float


def check_bad_lines(tally: Tally, pairs: PairSource, settings: PrepareSettings) -> None:
    """Raise DataError if too many texts of one side are not UTF-8 or too long."""
    for side, reasons in enumerate(BAD_LINES):
        bad = sum(tally.counts.get(reason, 0) for reason in reasons)
        if bad > settings.max_bad_share * len(pairs.rows):
            worst = max(reasons, key=lambda reason: tally.counts.get(reason, 0))
            what, remedy = (
                ("valid UTF-8", pairs.encoding_advice(side))
                if worst.endswith("utf8")
                else (f"at most {settings.max_line_bytes} bytes", "raise --max-line-bytes")
            )
            first = ", ".join(str(line) for line in tally.examples[worst])
            raise DataError(
                f"{pairs.names[side]}: {tally.counts[worst]} of {len(pairs.rows)} lines are not "
                f"{what}, the first are line {first}; {remedy}, or raise --max-bad-share to drop "
                f"such lines"
            )


def check_not_empty(
    train: Staged, valid: Staged | None, train_pairs: int, valid_pairs: int
) -> None:
    """Raise DataError, naming what dropped the pairs, if a part of the corpus has none."""
    if train_pairs and valid_pairs:
        return
    if not train_pairs and (valid is not None or not valid_pairs):
        raise DataError(_nothing_left(train))
    if valid is not None:
        raise DataError(_nothing_left(valid))
    part, change = ("training", "lower") if not train_pairs else ("validation", "raise")
    raise DataError(
        f"{', '.join(train.pairs.lines)}: only {train_pairs + valid_pairs} pairs are left and none "
        f"of them is in the {part} part; {change} --valid-share, or give validation text: "
        f"--valid-source and --valid-target, or --valid-pairs"
    )


def _nothing_left(staged: Staged) -> str:
    dropped = staged.tally.as_dict()
    reasons = ", ".join(f"{name} dropped {entry['pairs']}" for name, entry in dropped.items())
    remedy = REMEDIES.get(next(iter(dropped), ""), "check the files")
    return f"{', '.join(staged.pairs.lines)}: no pair is left ({reasons}); {remedy}"


def write(writer: ArtifactWriter, result: Result) -> dict[str, Any]:
    """Write report.json and lengths.png; return the metrics for the manifest."""
    lengths, limits = result.counts.lengths, result.limits
    metrics = {
        "train_pairs": sum(part.train_pairs for part in result.written),
        "valid_pairs": sum(part.valid_pairs for part in result.written),
        "source_vocabulary": len(result.vocabularies["source"]),
        "target_vocabulary": len(result.vocabularies["target"]),
        "max_source_length": limits["source"],
        "max_target_length": limits["target"],
    }
    writer.write_json("report.json", as_dict(result, metrics))
    from seqvis.plots.figures import plot_lengths  # matplotlib takes a second to load

    with writer.local_file("lengths.png") as path:
        plot_lengths(
            path, lengths["source"], lengths["target"], limits["source"], limits["target"],
            result.settings.source_lang, result.settings.target_lang,
        )  # fmt: skip
    return metrics


def as_dict(result: Result, metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the content of report.json."""
    pairs = result.train.pairs
    report: dict[str, Any] = {
        "lines": dict(pairs.lines),
        "pairs_read": len(pairs.rows),
        "lines_without_counterpart": max(pairs.lines.values()) - len(pairs.rows),
        "kept": metrics["train_pairs"] + metrics["valid_pairs"],
        "dropped": result.train.tally.as_dict(),
        **metrics,
        "vocabulary_words_seen": {
            side: len(result.vocabularies[side]) - len(SPECIALS) for side in SIDES
        },
        "unknown_percent": _unknown_percent(result),
        "length_percentiles": {
            side: {
                str(percentage): percentile_length(lengths, percentage)
                for percentage in (50, 90, 95, 97, 99, 100)
            }
            for side, lengths in result.counts.lengths.items()
        },
        "seconds": round(result.seconds, 2),
        "pairs_per_second": round(len(pairs.rows) / max(result.seconds, 1e-9), 1),
    }
    if result.spacing is not None:
        report["put_back"] = {
            "sentences": result.spacing.measured,
            "exact": result.spacing.exact,
            "corrections_of_rules": len(result.spacing.learned),
        }
    if result.valid is not None:
        report["kept"] = metrics["train_pairs"]
        report["valid_pairs_read"] = len(result.valid.pairs.rows)
        report["valid_dropped"] = result.valid.tally.as_dict()
    return report


def _unknown_percent(result: Result) -> dict[str, dict[str, float]]:
    """Return the share of the tokens that the vocabulary lacks, end marks not counted."""
    percent: dict[str, dict[str, float]] = {"train": {}, "valid": {}}
    for side, lengths in result.counts.lengths.items():
        limit = result.limits[side]
        kept = int((np.minimum(np.arange(len(lengths)), limit) * lengths).sum() - lengths.sum())
        train = sum(part.train_unknown[side] for part in result.written)
        valid = sum(part.valid_unknown[side] for part in result.written)
        tokens = sum(part.valid_tokens[side] for part in result.written)
        percent["train"][side] = round(100 * train / max(kept, 1), 3)
        percent["valid"][side] = round(100 * valid / max(tokens, 1), 3)
    return percent


def as_text(report: dict[str, Any]) -> str:
    """Return the report as a table for people."""
    lines = [_row(f"lines in {name}", count) for name, count in report["lines"].items()]
    if report["lines_without_counterpart"]:
        lines.append(_row("lines without counterpart", report["lines_without_counterpart"]))
    lines += _drop_rows(report["dropped"], "dropped")
    lines.append(_row("pairs kept", report["kept"]))
    if "valid_pairs_read" in report:
        lines.append(_row("validation pairs read", report["valid_pairs_read"]))
        lines += _drop_rows(report["valid_dropped"], "validation: dropped")
    lines += [
        _row("training pairs", report["train_pairs"]),
        _row("validation pairs", report["valid_pairs"]),
    ]
    for side in SIDES:
        unknown = report["unknown_percent"]["valid"][side]
        percentiles = report["length_percentiles"][side]
        lines += [
            _row(f"{side} vocabulary", report[f"{side}_vocabulary"], f"{unknown} % unknown"),
            _row(
                f"{side} tokens at most",
                report[f"max_{side}_length"],
                f"median {percentiles['50']}, longest {percentiles['100']}, with end mark",
            ),
        ]
    if "put_back" in report:
        put_back = report["put_back"]
        note = f"of {put_back['sentences']:,} in a sample"
        lines.append(_row("target spaces put back exactly", put_back["exact"], note))
    lines.append(_row("seconds", report["seconds"], f"{report['pairs_per_second']:,} pairs/s"))
    return "\n".join(lines)


def _drop_rows(dropped: dict[str, Any], what: str) -> list[str]:
    return [
        _row(
            f"{what}: {reason.replace('_', ' ')}",
            entry["pairs"],
            "lines " + ", ".join(map(str, entry["first_lines"])),
        )
        for reason, entry in dropped.items()
    ]


def _row(name: str, number: float, note: str = "") -> str:
    return f"{name:<40} {number:>12,}  {note}".rstrip()
