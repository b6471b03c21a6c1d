"""Programs that attack the sandbox, and odd ones that do not.

``test_attacks.py`` runs them. A new trick is one more ``Case`` in the module of its kind.
"""

from .abuses import ABUSES
from .cases import HARMLESS_ENDS, Case
from .exits import EXITS
from .forbidden_calls import FORBIDDEN_CALLS
from .forbidden_files import FORBIDDEN_FILES
from .lying_objects import LYING_OBJECTS
from .lying_values import LYING_VALUES
from .messages import MESSAGES
from .patches import PATCHES, SHADOWS
from .reading import READING
from .right_language import RIGHT_LANGUAGE
from .right_values import RIGHT_VALUES

WRONG_ANSWERS = (*LYING_VALUES, *LYING_OBJECTS, *SHADOWS, *PATCHES, *READING, *EXITS, *MESSAGES)
FORBIDDEN = (*FORBIDDEN_FILES, *FORBIDDEN_CALLS)
LEGITIMATE = (*RIGHT_VALUES, *RIGHT_LANGUAGE)

__all__ = ["ABUSES", "FORBIDDEN", "HARMLESS_ENDS", "LEGITIMATE", "WRONG_ANSWERS", "Case"]
