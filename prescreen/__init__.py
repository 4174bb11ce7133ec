"""prescreen: a node beside the PACS that pre-screens chest radiographs.

Five verbs, one word each: receive → keep → screen → report → deliver.
Not a medical device; for research and evaluation.
"""

import os

from prescreen.libraries import tell_libraries

__version__ = "0.1.0"

# here, because nothing of the package can be imported before it, and with that numpy and torch
tell_libraries(os.environ)
