"""How the GraphMAE paper judges embeddings: a linear layer over nodes, a support-vector machine over graphs."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.svm import SVC
from torch import nn
from torch.nn import functional as F

PENALTIES = [1e-3, 1e-2, 1e-1, 1, 10]


def node_accuracy(
    states: np.ndarray,
    labels: torch.Tensor,
    masks: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    *,
    learning_rate: float,
    weight_decay: float,
    epochs: int,
    seed: int,
) -> dict[str, float]:
    """Train one linear layer on frozen node states, all training nodes a step (section 5.1 and the published code).

    Args:
        states: ``(nodes, hidden)``.
        labels: ``(nodes,)`` int64.
        masks: Train, valid and test nodes.
        learning_rate: Of Adam.
        weight_decay: Of Adam.
        epochs: Steps.
        seed: Of the layer's weights.

    Returns:
        Test accuracy in percent: ``final`` at the last step, ``early`` at the best validation accuracy.
    """
    torch.manual_seed(seed)
    x = torch.from_numpy(states)
    train, valid, test = masks
    layer = nn.Linear(x.shape[1], int(labels.max()) + 1)
    optimizer = torch.optim.Adam(layer.parameters(), lr=learning_rate, weight_decay=weight_decay)
    best, early, final = -1.0, 0.0, 0.0
    for _ in range(epochs):
        optimizer.zero_grad()
        F.cross_entropy(layer(x[train]), labels[train]).backward()
        optimizer.step()
        with torch.no_grad():
            right = (layer(x).argmax(1) == labels).float()
        final = float(right[test].mean())
        if (score := float(right[valid].mean())) >= best:
            best, early = score, final
    return {"final": 100 * final, "early": 100 * early}


def graph_accuracy(vectors: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Judge graph embeddings by an RBF support-vector machine, as they are, in 10 folds (section 5.2).

    The penalty is chosen in 5 folds of each training part. Accuracy is the micro-F1 that the paper names.

    Args:
        vectors: ``(graphs, hidden)``.
        labels: ``(graphs,)``.

    Returns:
        Mean over the folds in percent, as ``final``.
    """
    scores = []
    folds = StratifiedKFold(10, shuffle=True, random_state=0)
    for train, test in folds.split(vectors, labels):
        search = GridSearchCV(SVC(random_state=42), {"C": PENALTIES}, cv=5, scoring="accuracy")
        search.fit(vectors[train], labels[train])
        scores.append(search.score(vectors[test], labels[test]))
    return {"final": 100 * float(np.mean(scores))}
