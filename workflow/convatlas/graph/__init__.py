"""Networks as graphs of named operations, and what each layer sees of the image.

>>> from convatlas.graph import receptive_fields
>>> fields = receptive_fields(torchvision.models.alexnet(), (3, 224, 224))
>>> fields["features.10"].size, fields["features.10"].stride
((163, 163), (16, 16))
"""

from convatlas.graph.describe import receptive_fields as receptive_fields
