"""What of an image made the network say what it says, by three ways back through it.

The data gradient (Simonyan et al., 2014), guided backpropagation (Springenberg et al.,
2015) and the deconvnet (Zeiler & Fergus, 2014), each from the score of the predicted
class: before a softmax, as Simonyan et al. advise, because behind it a class also gains
by what speaks against the others.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from convatlas.graph.backward import Backward, why_not
from convatlas.graph.execution import Execution
from convatlas.graph.tracing import Graph, trace
from convatlas.job import log
from convatlas.models.load import load_model
from convatlas.projection.engine import send_back
from convatlas.store import Exhibit, Recipe, Saliency, read, write

Path = str | os.PathLike[str]

RULES = ("gradient", "guided", "deconvnet")
_SOFTMAX = ("softmax", "log_softmax")


def record_saliency(
    *,
    exhibits: Sequence[Path],
    card: Path,
    weights: Path,
    outputs: Sequence[Path],
    recipes: Sequence[Recipe],
) -> None:
    """Write, for each of some exhibits, what each rule sends back from its predicted class.

    A rule that isn't defined for the network is left out, with the reason. The exhibits are
    of one size.
    """
    model = load_model(card, weights)
    images = [read(Exhibit, exhibit).image for exhibit in exhibits]
    graph = trace(model.module, (3, *images[0].shape[:2]))
    for image, output, recipe in zip(images, outputs, recipes, strict=True):
        write(output, look_back(graph, model.prepare(image[None])), recipe)


def look_back(graph: Graph, image: Tensor) -> Saliency:
    """Send the predicted class of a prepared image, (1,C,H,W), back by each rule."""
    node, softmax = scores_of(graph)
    scores, outputs = _values(graph, node, image)
    predicted = int(outputs.argmax())
    probability = {"": scores.softmax(0), "softmax": outputs, "log_softmax": outputs.exp()}[softmax]
    signals: dict[str, NDArray[np.float32]] = {}
    reasons = dict.fromkeys(RULES, "")
    for rule in RULES:
        reason = why_not(graph, node, rule)
        if reason:
            reasons[rule] = reason
            log.info("not drawn: %s", reason)
            continue
        run = Backward(graph, node, rule)
        signal = send_back(run, image, np.array([predicted]), torch.zeros(1, 2, dtype=torch.long))
        signals[rule] = np.asarray(signal[0].float().cpu().numpy())
    return Saliency(
        predicted=predicted,
        score=float(scores[predicted]),
        probability=float(probability[predicted]),
        gradient=signals.get("gradient"),
        guided=signals.get("guided"),
        deconvnet=signals.get("deconvnet"),
        why_not_gradient=reasons["gradient"],
        why_not_guided=reasons["guided"],
        why_not_deconvnet=reasons["deconvnet"],
    )


def scores_of(graph: Graph) -> tuple[fx.Node, str]:
    """Return the node with the class scores, and the kind of the softmax behind it, if any.

    It is the output, or what its softmax is made of.
    """
    node = graph.output
    while graph.operations[node].kind in (*_SOFTMAX, "identity", "dropout", "reshape"):
        if graph.operations[node].kind in _SOFTMAX:
            return node.all_input_nodes[0], graph.operations[node].kind
        node = node.all_input_nodes[0]
    return graph.output, ""


@torch.inference_mode()
def _values(graph: Graph, node: fx.Node, image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores and the outputs for one image, (K,) each."""
    wanted = {node, graph.output}
    found: dict[fx.Node, Any] = {
        one: value[0].float().flatten().cpu().clone()
        for one, value in Execution(graph, wanted).values(image)
    }
    return found[node], found[graph.output]
