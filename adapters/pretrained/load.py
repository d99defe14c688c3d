"""Loads a pretrained model from a local folder, after every check that needs no weights.

Missing and misshapen tensors are found by loading the headers of a checkpoint's files into a model on torch's `meta`
device: transformers itself translates the names of older checkpoints, and no memory is allocated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_utils import load_state_dict
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES  # type: ignore[attr-defined]
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
from transformers.utils import logging

from ...results.names import unknown_name
from ..backbone import CheckpointError, capabilities_of
from ..base import Capability, UnsupportedError
from .interface import layers_in_torch
from .labels import Head, match_head
from .swap import CORE
from .weight_files import (
    CONVERTED,
    pickled_files,
    read_config,
    safetensors_files,
    transformers_config,
    weights_variant,
)

_MASKED_WORDS = ("bert",)
"""Model types with a head for masked words."""
_OWN_WORD_HEAD = "the checkpoint's own head"
_NEW_WORD_HEAD = "a new head that was drawn: the checkpoint has none for masked words"
_IN_A_LAYER = re.compile(r"(^|\.)(layers?|h|blocks?)\.\d+\.")
_OLD_BUFFER = re.compile(r"(attn\.(masked_)?bias|rotary_emb\.inv_freq|position_ids)$")
_MOST_NAMED = 5


def available_bytes(device: torch.device) -> int:
    """Bytes of a device that are free for weights; of the CPU's memory, those that Linux can give without swapping."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    match = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
    assert match is not None
    return int(match[1]) * 1024


class Loaded(NamedTuple):
    """A model, and the origin of its classification head.

    Attributes:
        model: The model, in evaluation mode.
        head_note: How the checkpoint's head was used or replaced, in words for the record; empty for a language model.
        has_own_head: Whether all weights, those of the head too, are the checkpoint's.
    """

    model: PreTrainedModel
    head_note: str
    has_own_head: bool


def load_pretrained(
    folder: Path,
    *,
    num_classes: int | None,
    labels: Sequence[str] = (),
    masked_words: bool = False,
    weights_dtype: torch.dtype,
    device: torch.device,
    seed: int,
    trust_remote_code: bool = False,
) -> Loaded:
    """The model in a folder; nothing is downloaded.

    A classifier's head comes from the checkpoint if the checkpoint has one for the same classes; its outputs are put
    into the order of `labels`. Otherwise the head is drawn from `seed`: weights are normal with the standard deviation
    `initializer_range` of the model, biases 0. All other weights are the checkpoint's.

    Args:
        folder: Folder with config.json and safetensors.
        num_classes: Classes of an encoder or image model, 1 for a regression; None for a language model.
        labels: Names of the classes in the order of their ids; empty if they have none.
        masked_words: Load an encoder with its head for masked words in place of a classification head.
        weights_dtype: Type of the weights in memory.
        device: Device of the model.
        seed: Seed of a new head, which is the same on every device.
        trust_remote_code: Run code that comes with the checkpoint, and read pickled weights.

    Raises:
        CheckpointError: Before any weight is read: the folder lacks a file, is damaged, would run code, has an
            unsupported type, is quantised, is a classifier where a language model is asked for or the reverse, has
            weights that do not fit its config.json, or needs more memory than is free.
    """
    raw = read_config(folder)
    _check_config(raw, folder, num_classes, trust_remote_code)
    with _quietly(), torch.random.fork_rng(devices=[]):  # transformers draws new heads from the global generator
        classes = {} if num_classes is None else {"num_labels": num_classes}
        config = transformers_config(folder, trust_remote_code, **classes)
        kind = _auto_class(config, masked_words), config
        outline, drawn = _outline(folder, kind, weights_dtype, trust_remote_code, CONVERTED in raw)
        _check_memory(folder, outline, device)
        model: PreTrainedModel = type(outline).from_pretrained(
            folder,
            config=config,
            dtype=weights_dtype,
            ignore_mismatched_sizes=bool(drawn),
            use_safetensors=None if trust_remote_code else True,
            variant=weights_variant(folder),
            local_files_only=True,
        )
    if masked_words:
        note = f"classes are words for the masked token, by {_NEW_WORD_HEAD if drawn else _OWN_WORD_HEAD}"
    else:
        note, drawn = _match(model, match_head(raw, labels, num_classes or 1), drawn, num_classes)
    _draw(model, drawn, seed)
    if labels:
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {name: place for place, name in enumerate(labels)}
    return Loaded(model.to(device).eval(), note, not drawn)  # type: ignore[arg-type]


def _match(model: PreTrainedModel, head: Head, drawn: set[str], num_classes: int | None) -> tuple[str, set[str]]:
    """How a checkpoint's classification head is used, and its parameters that are drawn; its outputs are put in order.

    Args:
        model: The model.
        head: How the head's classes match those of the task.
        drawn: Parameters that the checkpoint does not fill.
        num_classes: Classes of the task; None for a language model.
    """
    if drawn:
        return f"a new head for {num_classes} classes was drawn: the checkpoint has none of that size", drawn
    if head.order is None:
        return f"{head.note}; a new head was drawn", _outside_base(model)
    if num_classes is not None:
        _reorder(model, head.order)
    return head.note, drawn


def _check_config(raw: Mapping[str, Any], folder: Path, num_classes: int | None, trust_remote_code: bool) -> None:
    model_type = raw.get("model_type")
    capabilities = capabilities_of(raw, str(folder))
    if "auto_map" not in raw and model_type not in CONFIG_MAPPING_NAMES:
        raise CheckpointError(f"{folder}: {unknown_name('model_type', str(model_type), CONFIG_MAPPING_NAMES)}")
    if "auto_map" in raw and not trust_remote_code:
        raise CheckpointError(
            f"{folder} brings code of its own (auto_map in its config.json), which does not run unless you pass "
            "--trust-remote-code; read that code first"
        )
    if quantisation := raw.get("quantization_config"):
        named = quantisation.get("quant_method") if isinstance(quantisation, dict) else None
        method = named or "an unnamed method"
        raise CheckpointError(f"{folder} is quantised by {method}; give the model before it was quantised, or a GGUF")
    is_language_model = Capability.LANGUAGE_MODEL in capabilities
    if is_language_model == (num_classes is not None):
        kind = "a language model" if is_language_model else "a classifier"
        asked = "a language model" if num_classes is None else f"a classifier of {num_classes} classes"
        raise CheckpointError(f"{folder} is of type {model_type}, {kind} here, and cannot be loaded as {asked}")


def stored_tensors(folder: Path, trust_remote_code: bool = False) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint on the meta device, by name; of safetensors files only the headers are read.

    Args:
        folder: Folder of the checkpoint.
        trust_remote_code: Read pickled weights if there are no safetensors.

    Raises:
        CheckpointError: There are no weights that may be read, or a weight file is damaged.
    """
    pickled = pickled_files(folder)
    is_pickled = trust_remote_code and pickled and not any(folder.glob("*.safetensors"))
    tensors: dict[str, torch.Tensor] = {}
    for file in pickled if is_pickled else safetensors_files(folder):
        try:
            tensors |= load_state_dict(str(file), map_location="meta")  # release 4 takes no paths
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{file} is not a whole weight file ({error}); download it again") from error
    return tensors


def _auto_class(config: PretrainedConfig, masked_words: bool) -> Any:
    """The class of transformers for a model's task: next tokens, masked words, classes of text or of images.

    Raises:
        UnsupportedError: Models of this type have no head for masked words.
    """
    if masked_words and config.model_type not in _MASKED_WORDS:
        raise UnsupportedError(
            f"a model of type {config.model_type} has no head for masked words; allowed: {', '.join(_MASKED_WORDS)}"
        )
    if masked_words:
        return AutoModelForMaskedLM
    raw = {"model_type": config.model_type, "architectures": config.architectures}
    if Capability.LANGUAGE_MODEL in capabilities_of(raw, config.model_type):
        return AutoModelForCausalLM
    has_images = config.model_type in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    return AutoModelForImageClassification if has_images else AutoModelForSequenceClassification


def _outline(
    folder: Path, kind: tuple[Any, PretrainedConfig], dtype: torch.dtype, trust_remote_code: bool, converted: bool
) -> tuple[PreTrainedModel, set[str]]:
    """The model on the meta device, and the parameters of its head that the checkpoint does not fill.

    Args:
        folder: Folder of the checkpoint.
        kind: The class of transformers that makes the model, and the model's configuration.
        dtype: Type of the weights.
        trust_remote_code: As in `load_pretrained`.
        converted: Whether the checkpoint is a converted model.
    """
    auto, config = kind
    try:
        with torch.device("meta"):
            blank = auto.from_config(config, trust_remote_code=trust_remote_code)
    except (MemoryError, ImportError):
        raise
    except Exception as error:  # each class of transformers checks its sizes, or fails on them, in its own way
        told = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
        raise CheckpointError(f"{folder / 'config.json'} describes no model that can be built ({told})") from error
    model, info = type(blank).from_pretrained(
        None,
        config=config,
        state_dict=stored_tensors(folder, trust_remote_code),
        device_map={"": "meta"},
        dtype=dtype,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    # Release 5 lists names with both shapes, release 4 only names.
    mismatched = {entry if isinstance(entry, str) else entry[0] for entry in info["mismatched_keys"]}
    missing = set(info["missing_keys"])
    backbone = f"{model.base_model_prefix}."
    has_head = auto is not AutoModelForCausalLM
    drawn = mismatched if converted else missing | mismatched  # a converted classifier was written with its head
    head = {name for name in drawn if has_head and not name.startswith(backbone)}
    extra = [name for name in info["unexpected_keys"] if _has_no_place(name, converted)]
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    _refuse(folder, "lacks", missing - head, shapes)
    _refuse(folder, "has in another shape than its config.json asks for", mismatched - head, shapes)
    _refuse(folder, "has in its layers, where the architecture has no place for it,", extra, {})
    return model, head


def _has_no_place(name: str, converted: bool) -> bool:
    """Whether an unused tensor of the checkpoint is an error, as it belongs to a layer or the checkpoint is converted.

    Other checkpoints may have heads for other tasks, and old buffers.
    """
    if converted:  # whoever wrote it had a place for every tensor
        return f".{CORE}." not in name
    return bool(_IN_A_LAYER.search(name)) and not _OLD_BUFFER.search(name)


def _refuse(folder: Path, problem: str, names: Iterable[str], shapes: Mapping[str, list[int]]) -> None:
    if not (wrong := sorted(names)):
        return
    named = ", ".join(f"{name} {shapes.get(name, '')}".strip() for name in wrong[:_MOST_NAMED])
    more = f" and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
    raise CheckpointError(
        f"{folder} {problem} {len(wrong)} of the model's tensors: {named}{more}; "
        "is its config.json that of its weights?"
    )


def _check_memory(folder: Path, model: PreTrainedModel, device: torch.device) -> None:
    needed = sum(weight.nbytes for weight in model.parameters())
    for place in {torch.device("cpu"), device}:  # weights pass through the CPU's memory on their way elsewhere
        if needed > (free := available_bytes(place)):
            raise CheckpointError(
                f"{folder}: its weights in {str(model.dtype).removeprefix('torch.')} need {needed / 1e9:.2f} GB, and "
                f"{place} has {free / 1e9:.2f} GB free; hold them in bfloat16 (backbone.weights=bfloat16), choose a "
                "smaller model, or end other programs"
            )


def _outside_base(model: PreTrainedModel) -> set[str]:
    """Names of the parameters of a model's head."""
    return {name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")}


def _reorder(model: PreTrainedModel, order: Sequence[int]) -> None:
    """Puts the outputs of a head into another order."""
    for name in _outside_base(model):
        parameter = model.get_parameter(name)
        if len(parameter) == len(order):
            parameter.data = parameter.data[list(order)].contiguous()


def _draw(model: PreTrainedModel, names: Iterable[str], seed: int) -> None:
    """Draws parameters on the CPU in float32, so that a seed gives the same head everywhere."""
    generator = torch.Generator().manual_seed(seed)
    std = getattr(model.config, "initializer_range", 0.02)
    embeddings = model.get_input_embeddings().weight if hasattr(model.config, "vocab_size") else None
    for name in sorted(names):
        parameter = model.get_parameter(name)
        if parameter is embeddings:  # the matrix of a head for masked words
            continue
        values = torch.ones(parameter.shape) if name.endswith("LayerNorm.weight") else torch.zeros(parameter.shape)
        parameter.data.copy_(values.normal_(std=std, generator=generator) if parameter.ndim > 1 else values)


@contextmanager
def _quietly() -> Iterator[None]:
    """Hides progress bars and warnings of transformers while the block lasts, and kernels that do not run here."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with layers_in_torch():
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
