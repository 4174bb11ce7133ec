"""prescreen: a node beside the PACS that pre-screens chest radiographs.

Five verbs, one word each: receive → keep → screen → report → deliver.
Not a medical device; for research and evaluation.
"""

__version__ = "0.1.0"
