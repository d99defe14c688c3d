"""The version of the code that builds, trains, swaps, distils, caches and decodes models.

It is part of every cell's key, so that cells are measured again when it is raised. Raise it with every change of
`adapters/`, or of the kernels that models run on, that changes a number. `tests/adapters/test_model_code.py` compares
the numbers of tiny models with stored ones, and says how to store new ones.
"""

MODEL_CODE = 2
