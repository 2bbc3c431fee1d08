"""Runs of codes as words: n-grams with naive Bayes, and which of them speak for a class (paper, section 2.4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

Ngram: TypeAlias = tuple[int, ...]
Rows: TypeAlias = Sequence[Sequence[int]]
"""Codes of one record: a sequence for each of its channels and windows."""


def ngrams(row: Sequence[int], lowest: int, highest: int) -> Iterator[tuple[int, Ngram]]:
    """Yield place and n-gram of every run of ``lowest`` to ``highest`` codes of a row."""
    for length in range(lowest, highest + 1):
        for start in range(len(row) - length + 1):
            yield start, tuple(row[start : start + length])


class NgramClassifier:
    """Multinomial naive Bayes over counts of n-grams.

    N-grams are ordered, stay inside a row, and are counted over all rows of a record. The paper names neither the order
    nor the event model; these are the choices of the golden cases.

    Attributes:
        vocabulary: Column of each n-gram, in the order in which they were first met.
        bayes: The classifier (scikit-learn's).
    """

    def __init__(self, lowest: int = 1, highest: int = 3, alpha: float = 1.0) -> None:
        """Set the n-grams.

        Args:
            lowest: Codes in the shortest n-gram.
            highest: Codes in the longest.
            alpha: Laplace smoothing of the counts.
        """
        from sklearn.naive_bayes import MultinomialNB

        self.lowest, self.highest = lowest, highest
        self.vocabulary: dict[Ngram, int] = {}
        self.bayes = MultinomialNB(alpha=alpha)

    def counts(self, records: Sequence[Rows]) -> csr_array:
        """Return how often each n-gram of the vocabulary occurs, ``(records, n-grams)``."""
        places: list[tuple[int, int, int]] = []
        for number, record in enumerate(records):
            found = Counter(ngram for row in record for _, ngram in ngrams(row, self.lowest, self.highest))
            places += [(number, self.vocabulary[n], c) for n, c in found.items() if n in self.vocabulary]
        rows, columns, values = np.array(places, dtype=np.int64).reshape(-1, 3).T
        return csr_array((values, (rows, columns)), shape=(len(records), len(self.vocabulary)))

    def fit(self, records: Sequence[Rows], labels: Sequence[object], more: Sequence[Rows] = ()) -> NgramClassifier:
        """Learn vocabulary and classifier.

        Args:
            records: Codes of each record.
            labels: One a record, of at least two kinds.
            more: Records without labels whose n-grams join the vocabulary.
        """
        for record in (*records, *more):
            for row in record:
                for _, ngram in ngrams(row, self.lowest, self.highest):
                    self.vocabulary.setdefault(ngram, len(self.vocabulary))
        self.bayes.fit(self.counts(records), list(labels))
        return self

    def probabilities(self, records: Sequence[Rows]) -> NDArray[np.float64]:
        """Return the probability of each class, ``(records, classes)``, in the order of ``bayes.classes_``."""
        return np.asarray(self.bayes.predict_proba(self.counts(records)))

    def log_ratios(self, label: object) -> NDArray[np.float64]:
        """Return how much more likely each n-gram is in a class than in the most like of the others (log ratio)."""
        own = self.bayes.classes_.tolist().index(label)
        likelihood = self.bayes.feature_log_prob_
        return np.asarray(likelihood[own] - np.delete(likelihood, own, axis=0).max(axis=0))

    def telling(self, label: object, count: int) -> list[tuple[Ngram, float]]:
        """Return the n-grams that speak loudest for a class, with their log ratios, the loudest first."""
        ratios = self.log_ratios(label)
        # Of equals the first in lexicographic order, so that the choice does not depend on that of the records.
        ranked = sorted(self.vocabulary.items(), key=lambda item: (-ratios[item[1]], item[0]))
        return [(ngram, float(ratios[column])) for ngram, column in ranked[:count]]
