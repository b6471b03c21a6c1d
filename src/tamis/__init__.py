"""tamis: train policies by policy gradient, and sift the noise out of it.

Nothing is imported here, so that ``import tamis`` costs nothing; take what you need from the sub-packages
``tamis.functional``, ``tamis.generation``, ``tamis.execution``, ``tamis.tasks``, ``tamis.modules``,
``tamis.datamodules`` and ``tamis.callbacks``.
"""

__version__ = "0.1.0"
