"""The version of the code that builds, trains, swaps, distils, caches and decodes models.

It is part of every cell's key, so that cells measured with code that gave other numbers are measured again. Raise it
whenever a change of `adapters/`, or of the kernels that models run on, changes a number: `tests/adapters/
test_model_code.py` holds the numbers of tiny models and fails until it is raised.
"""

MODEL_CODE = 1
