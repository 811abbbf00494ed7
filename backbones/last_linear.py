"""Which layer of a network gives the logits."""

from torch import nn


def logit_layer(network: nn.Module) -> nn.Linear | None:
    """Return the linear layer that gives the logits of a backbone or of a module around one, None if there is none.

    It is the last one of `head`, where that is a module; else that of `backbone`, likewise; else the last one in the
    order in which the layers were registered.
    """
    for part in (getattr(network, "head", None), getattr(network, "backbone", None)):
        if isinstance(part, nn.Module) and (layer := logit_layer(part)) is not None:
            return layer
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    return layers[-1] if layers else None
