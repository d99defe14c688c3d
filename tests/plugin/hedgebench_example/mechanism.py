"""Declares the mechanism `softplus`, without torch: `bench list models` must stay quick."""

from hedgebench.adapters.mechanisms.declaration import Mechanism, Option

SOFTPLUS = Mechanism(
    name="softplus",
    summary="softplus(beta x), elementwise",
    source="an example, from no paper",
    feature_map="hedgebench_example.feature_map:SoftplusMap",
    options={"beta": Option(float, 1.0, "sharpness of the bend at zero", minimum=0.01)},
)
