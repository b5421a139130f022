"""Turn pictures into features."""

from functools import partial
from typing import Any

from seqvis.cli.console import stage_progress
from seqvis.cli.job import RayJobSettings, leave, run_job
from seqvis.vision.embed import EmbedSettings, embed_images


class EmbedImages(RayJobSettings, EmbedSettings):  # type: ignore[misc]  # two kinds of config
    """Turns pictures in folders, tars, datasets or a table into features for train_devise.

    Files that cannot be used are listed with the reason in OUT/rejected.parquet.
    """


def run(settings: EmbedImages) -> dict[str, Any]:
    """Embed the images; return how many, how fast, and what was rejected."""
    with stage_progress() as progress:
        summary = embed_images(settings.part(EmbedSettings), progress, settings.ray_session)
    return {**summary, "out": settings.out}


main = partial(run_job, EmbedImages, run)

if __name__ == "__main__":
    leave(main())
