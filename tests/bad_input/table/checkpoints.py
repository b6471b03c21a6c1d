"""Checkpoints of runs and weights of classifiers."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .case import BadInput, Make, RunsCode, cut, saved


def _checkpoint(wrong: str, says: tuple[str, ...], make: Make, command: str = "sft", again: bool = False) -> BadInput:
    return BadInput(wrong, f"{command} --ckpt_path={{here}}/x.ckpt", ("x.ckpt", *says), make, again)


def _weights(wrong: str, says: tuple[str, ...], make: Make) -> BadInput:
    return BadInput(wrong, "npz --model.weights={here}/x.pt", ("x.pt", *says), make)


_WAY_OUT = "give a .ckpt that a run wrote"
_STATE: Callable[[Path], Any] = lambda good: torch.load(good / "npz.ckpt", weights_only=True)["state_dict"]  # noqa: E731
CHECKPOINTS = [
    BadInput(
        "no checkpoint",
        "sft --ckpt_path=nope.ckpt",
        ("--ckpt_path nope.ckpt: there is no such checkpoint", "--resume auto"),
    ),
    BadInput("a folder for a checkpoint", "sft --ckpt_path={here}", ("is a folder and no checkpoint", _WAY_OUT)),
    _checkpoint("a checkpoint that broke off", ("only a part", _WAY_OUT), cut("npz.ckpt", "x.ckpt")),
    _checkpoint(
        "a checkpoint of a list",
        ("is no checkpoint of a run, it holds a list", _WAY_OUT),
        saved("x.ckpt", lambda good: [1]),
    ),
    _checkpoint(
        "weights for a checkpoint",
        ("is no checkpoint of a run", "network.", "--model.weights"),
        saved("x.ckpt", _STATE),
    ),
    _checkpoint(
        "code in a checkpoint",
        ("mkdir", "nothing of it was run", _WAY_OUT),
        lambda here, good: torch.save({"state_dict": {}, "x": RunsCode(here / "code-was-run")}, here / "x.ckpt"),
    ),
    _checkpoint(
        "a pickle for a checkpoint",
        (_WAY_OUT,),
        lambda here, good: (here / "x.ckpt").write_bytes(pickle.dumps(RunsCode(here / "code-was-run"))),
    ),
    BadInput(
        "a checkpoint of a language model",
        "npz --ckpt_path={good}/sft.ckpt",
        ("of another model", "it lacks network.", "--ckpt_path"),
        again=True,
    ),
    BadInput(
        "a checkpoint of no policy",
        "policy --ckpt_path={good}/sft.ckpt",
        ("counts no iterations", "CodePolicy", "--ckpt_path"),
    ),
    BadInput(
        "a checkpoint of other classes",
        "folder --ckpt_path={good}/npz.ckpt",
        ("of another model", "network.fc.weight is [3, 96] there and [165, 96] here"),
    ),
    BadInput("no weights", "npz --model.weights=nope.pt", ("nope.pt", "run the stage that exports them")),
    _weights(
        "classifier weights that broke off", ("only a part", "ModelExport"), cut("classifier/classifier.pt", "x.pt")
    ),
    _weights(
        "code in weights",
        ("mkdir", "nothing of it was run"),
        lambda here, good: torch.save({"state_dict": {}, "x": RunsCode(here / "code-was-run")}, here / "x.pt"),
    ),
    _weights(
        "weights of other labels",
        ("label_kind multi", "single", "reset_head"),
        saved(
            "x.pt",
            lambda good: torch.load(good / "classifier/classifier.pt", weights_only=True) | {"label_kind": "multi"},
        ),
    ),
]
