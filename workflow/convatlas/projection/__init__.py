"""Project a unit's answer back to the pixels that caused it.

The deconvnet of Zeiler & Fergus (2014), and its relatives guided backpropagation
(Springenberg et al., 2015) and the plain gradient (Simonyan et al., 2014); see
`convatlas.graph.backward` for their rules.

>>> from convatlas.projection import project
>>> boxes, projections = project(model, images, "features.10", units, locations)
"""

from convatlas.projection.project import project as project
