"""Programs that attack the sandbox, and odd ones that do not.

``test_attacks.py`` runs them. A new trick is one more ``Case`` in the module of its kind.
"""

from .abuses import ABUSES_OF_RESOURCES
from .abusive_answers import ABUSIVE_ANSWERS
from .cases import HARMLESS_ENDS, Case
from .exits import EXITS
from .forbidden_calls import FORBIDDEN_CALLS
from .forbidden_files import FORBIDDEN_FILES
from .lying_objects import LYING_OBJECTS
from .lying_values import LYING_VALUES
from .messages import MESSAGES
from .nodes import NODES
from .patches import PATCHES
from .reading import READING
from .right_classes import RIGHT_CLASSES
from .right_language import RIGHT_LANGUAGE
from .right_values import RIGHT_VALUES
from .shadows import SHADOWS

WRONG_ANSWERS = (*LYING_VALUES, *LYING_OBJECTS, *SHADOWS, *PATCHES, *READING, *EXITS, *MESSAGES, *NODES)
FORBIDDEN = (*FORBIDDEN_FILES, *FORBIDDEN_CALLS)
ABUSES = (*ABUSES_OF_RESOURCES, *ABUSIVE_ANSWERS)
LEGITIMATE = (*RIGHT_CLASSES, *RIGHT_VALUES, *RIGHT_LANGUAGE)

__all__ = ["ABUSES", "FORBIDDEN", "HARMLESS_ENDS", "LEGITIMATE", "WRONG_ANSWERS", "Case"]
