"""Networks: building them, filling them with weights, and training them."""

WITH_TRAINING_HEADS = ("googlenet", "inception_v3")
"""The networks of torchvision that have outputs for training only."""


def shaped_by_weights(architecture: str) -> bool:
    """Say whether torchvision builds a network of its own otherwise for some of its weights."""
    prefix, _, name = architecture.partition("/")
    return prefix == "torchvision" and (name in WITH_TRAINING_HEADS or name.startswith("vit_"))
