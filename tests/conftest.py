"""Every tensor shape that an annotation names is checked while the tests run."""

from jaxtyping import install_import_hook

install_import_hook(["hedgebench.kernels", "hedgebench.adapters"], "beartype.beartype")
