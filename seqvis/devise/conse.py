"""ConSE (Norouzi et al. 2014, arXiv 1312.5650): zero-shot search without any training.

A picture lies at the mean of the vectors of the classifier's ten likeliest classes, weighted by
their probabilities. It is the baseline that a trained head must beat.
"""

from collections.abc import Collection

import numpy as np

from seqvis.devise.labels import LabelVectors, label_vectors
from seqvis.devise.space import Space
from seqvis.devise.wordnet import WordNet, imagenet_classes
from seqvis.vectors.store import WordVectors


def class_points(
    vectors: WordVectors, wordnet: WordNet, space: Space, unseen: Collection[str]
) -> np.ndarray:
    """Points of ImageNet's 1,000 classes, float32 [1000, dimension]; zeros for unseen ones.

    The classifier was trained on all of them: leaving out those that are to count as unseen is as
    near as its probabilities come to a classifier that was not.
    """
    wnids = [wnid for wnid, _ in imagenet_classes()]
    found: LabelVectors = label_vectors(wnids, vectors, wordnet)
    points = space.place(found.vectors)
    left_out = set(unseen)
    points[[wnid in left_out for wnid in wnids]] = 0
    return points
