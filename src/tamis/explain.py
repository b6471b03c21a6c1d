"""Making a configuration parser's complaints readable: the cause without the noise, and the nearest right key."""

from __future__ import annotations

import difflib
import errno
import importlib
import inspect
import re
import textwrap
import traceback
from collections.abc import Iterable
from pathlib import Path

# What jsonargparse says beside the cause when a value fits none of a type's alternatives.
_NOISE = re.compile(
    r"^\s*(- )?(Does not validate against any of the Union subtypes|Subtypes: |Errors:|Given value type: |"
    r"Given value: |Expected a <class 'NoneType'>|Expected a path but )"
)
_UNKNOWN = re.compile(
    r"unrecognized arguments: -*(?P<argument>[\w.]+)|does not accept option '(?P<option>[\w.]+)'|"
    r"Option '(?P<init_arg>[\w.]+)' is not accepted|Expected a dot import path string: (?P<class_name>\w+)"
)
_CLASS_PATH = re.compile(r"Problem with given class_path '(?P<class_path>[\w.]+)'")
_GIVEN_VALUE = re.compile(r"^\s*Given value: (?!Namespace|NestedArg|\{|\[)(.*)$", re.MULTILINE)
_OTHER_SHAPE = re.compile(
    r"size mismatch for (\S+): copying a param with shape torch\.Size\((.*?)\) from checkpoint, "
    r"the shape in current model is torch\.Size\((.*?)\)"
)
_OTHER_KEYS = re.compile(r"(Missing|Unexpected) key\(s\) in state_dict: (.*)")
_SHOWN = 3
_DEAD_LOADER = re.compile(r"DataLoader worker \(pid\S* [\d, ]+\) (is killed by signal|exited unexpectedly)")
#: What is wrong with a place on the disk, and never a bug.
_NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR)
#: Where Lightning and torch look at a user's options, and what to say beside what they say.
_OPTION_CHECKS = {
    "lightning/pytorch/trainer/connectors/accelerator_connector.py": "Look at --trainer.accelerator (auto takes what "
    "this machine has), --trainer.devices, --trainer.strategy and --trainer.precision.",
    "lightning/pytorch/trainer/connectors/checkpoint_connector.py": "Give a file by --ckpt_path.",
    "lightning/fabric/plugins/io/torch_io.py": "Give a file that is there by --ckpt_path.",
    "lightning/fabric/plugins/precision/": "Give another --trainer.precision, such as 32-true or bf16-mixed.",
    "lightning/pytorch/plugins/precision/": "Give another --trainer.precision, such as 32-true or bf16-mixed.",
    "lightning/fabric/accelerators/": "Look at --trainer.accelerator and --trainer.devices.",
    "lightning/pytorch/accelerators/": "Look at --trainer.accelerator and --trainer.devices.",
    "lightning/fabric/utilities/device_parser.py": "Look at --trainer.accelerator and --trainer.devices.",
    "lightning/fabric/utilities/seed.py": "Give another --seed_everything.",
    "torch/optim/": "It is an option of an optimizer or schedule of the model, such as model.optimizer.lr.",
    "lightning/pytorch/": "",
}


def explain(message: str, known_keys: Iterable[str], class_names: Iterable[str]) -> str:
    """The message without its noise, and the key that was probably meant.

    Args:
        message: what jsonargparse says.
        known_keys: the options there are, dotted.
        class_names: short names of the classes that may stand as a ``class_path``.
    """
    lines = [line for line in message.splitlines() if line.strip() and not _NOISE.match(line)]
    text = textwrap.dedent("\n".join(dict.fromkeys(re.sub(r"^(\s*)- ", r"\1", line) for line in lines)))
    given = _GIVEN_VALUE.search(message)
    if given is not None and "Got value" not in text:
        text = f"{text}\n  Got value: {given[1]}"
    unknown = _UNKNOWN.search(text)
    if unknown is None:
        return text
    candidates = list(known_keys)
    if unknown["init_arg"] is not None:
        candidates = _init_arguments(text)
    elif unknown["class_name"] is not None:
        candidates = list(class_names)
    if unknown["class_name"] in candidates:
        return f"{text}\n  {unknown['class_name']} is a class of another kind than this key takes."
    nearest = nearest_key(next(group for group in unknown.groups() if group), candidates)
    return text if nearest is None else f"{text}\n  Did you mean {nearest!r}?"


def told(error: Exception) -> str | None:
    """What to tell of an error that ends a run; ``None`` of one that may be a bug, which wants its stack.

    An error speaks for itself where tamis raised it. What Lightning and torch say of options that they refuse lacks
    the key, which is added.
    """
    if raised_by_tamis(error):
        return str(error)
    if _DEAD_LOADER.search(str(error)):
        return (
            f"{str(error).strip()} A loader process that is killed most often had too little memory, or too little "
            "room in /dev/shm (`docker run --shm-size`): lower --data.num_workers or --data.batch_size; with "
            "num_workers 0 the run itself loads. `dmesg` tells what the system killed"
        )
    if isinstance(error, OSError) and error.errno in _NO_ACCESS and error.filename is not None:
        return (
            f"{error.filename}: {error.strerror}. Give another place (--run_dir, a cache_dir, the file's own option), "
            "or mend its permissions"
        )
    misfits = _misfits(str(error))
    if misfits:
        more = f"; and {len(misfits) - _SHOWN} more" if len(misfits) > _SHOWN else ""
        return (
            f"the checkpoint is of another model: {'; '.join(misfits[:_SHOWN])}{more}. Give --ckpt_path with the model "
            "and the data that it was written with"
        )
    stack = traceback.extract_tb(error.__traceback__)
    if not stack or not (stack[-1].line or "").startswith("raise "):
        return None
    place = stack[-1].filename.replace("\\", "/")
    hint = next((hint for part, hint in _OPTION_CHECKS.items() if f"/{part}" in place), None)
    if hint is None:
        return None
    text = str(error).strip()
    return text if not hint else f"{text}{'' if text.endswith(('.', '!', '?')) else '.'} {hint}"


def raised_by_tamis(error: BaseException) -> bool:
    """Whether a ``raise`` of this package made the error, so that it says by itself what is wrong."""
    stack = traceback.extract_tb(error.__traceback__)
    if not stack or not (stack[-1].line or "").startswith("raise "):
        return False  # what Python or torch object to in a line of ours is a bug, and wants its stack
    package = Path(__file__).resolve().parent
    folders = [package, *(link.resolve() for link in package.iterdir() if link.is_symlink())]
    return any(Path(stack[-1].filename).resolve().is_relative_to(folder) for folder in folders)


def nearest_key(unknown: str, known: Iterable[str]) -> str | None:
    """The known key closest to an unknown one, compared whole, by its last part and by its first."""
    keys = list(dict.fromkeys(known))
    whole = difflib.get_close_matches(unknown, keys, 1, 0.8)
    if whole:
        return whole[0]
    first, _, rest = unknown.partition(".")
    groups = sorted({key.partition(".")[0] for key in keys})
    if rest and first not in groups:  # `modle.class_path`: below a key that there is not, none can be near
        group = difflib.get_close_matches(first, groups, 1, 0.7)
        if group:
            return group[0]
    by_leaf = {key.rsplit(".", 1)[-1]: key for key in keys}
    leaf = difflib.get_close_matches(unknown.rsplit(".", 1)[-1], by_leaf, 1, 0.6)
    return by_leaf[leaf[0]] if leaf else None


def _misfits(message: str) -> list[str]:
    """What torch says of a state dict that does not fit, one sentence a tensor."""
    if "Error(s) in loading state_dict" not in message:
        return []
    verbs = {"Missing": "it lacks", "Unexpected": "the model has no"}
    shapes = [f"{name} is {there} there and {here} here" for name, there, here in _OTHER_SHAPE.findall(message)]
    keys = [
        f"{verbs[kind]} {name}" for kind, names in _OTHER_KEYS.findall(message) for name in re.findall('"(.+?)"', names)
    ]
    return [*shapes, *keys]


def _init_arguments(text: str) -> list[str]:
    """Constructor arguments of the last class that the message names."""
    paths = _CLASS_PATH.findall(text)
    if not paths:
        return []
    module, name = paths[-1].rsplit(".", 1)
    return list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
