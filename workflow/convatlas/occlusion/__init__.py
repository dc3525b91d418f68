"""Slide an occluder over an image and watch what the network says.

>>> from convatlas.occlusion import sweep
>>> result = sweep(model, image, size=16, stride=8, fill=0.0)
>>> result.probability[..., 207]  # of class 207, for every position of the occluder

Needs torch and nothing of the workflow. `Sweeper` is for many images, or for several
sizes of the occluder.
"""

from convatlas.occlusion.occluders import blurred as blurred
from convatlas.occlusion.sweeps import Sweep as Sweep
from convatlas.occlusion.sweeps import Sweeper as Sweeper
from convatlas.occlusion.sweeps import sweep as sweep
