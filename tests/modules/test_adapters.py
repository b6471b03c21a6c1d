"""LoRA: one copy of the base holds policy and reference, and what is written is the adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from peft import PeftModel
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM

from tamis.callbacks import PPOUpdate, RolloutMetrics
from tamis.modules import CodePolicy, PythonReward, RewardModel, SupervisedFineTuning
from tamis.modules.adapters import as_reference, base_of, is_adapter, without_frozen
from tamis.modules.language_model import load_causal_lm, load_tokenizer
from tamis.modules.policy import PolicyCallback
from tamis.modules.scalar_head import ScalarHeadModel

Tasks = list[dict[str, object]]


def _lengths(prompts: list[str], completions: list[str]) -> list[float]:
    return [float(len(text)) for text in completions]


class Seen(PolicyCallback):
    def __init__(self) -> None:
        self.rollouts: list[Any] = []
        self.kl: list[float] = []

    def on_update_end(self, trainer: Trainer, module: Any, rollout: Any, stats: Any) -> None:
        self.rollouts.append(rollout)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.kl.append(float(trainer.callback_metrics["rollout/kl"]))


def _policy(model: str, **options: Any) -> CodePolicy:
    defaults: dict[str, Any] = {"num_samples": 4, "max_new_tokens": 6, "max_iterations": 2, "warmup_ratio": 0.0}
    defaults["policy_optimizer"] = lambda parameters: torch.optim.AdamW(parameters, lr=1e-2)
    return CodePolicy(model, PythonReward(_lengths), **{**defaults, **options})


def _trainer(folder: Path, *callbacks: Any) -> Trainer:
    return Trainer(
        max_epochs=-1,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        default_root_dir=str(folder),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _fit(module: CodePolicy, tasks: Tasks, folder: Path) -> tuple[Trainer, Seen]:
    seen = Seen()
    trainer = _trainer(folder, RolloutMetrics(), PPOUpdate(), seen)
    trainer.fit(module, DataLoader(tasks[:8], batch_size=4, collate_fn=list))  # type: ignore[arg-type]
    return trainer, seen


def _noisy(model: Any) -> None:
    """An adapter that says something: B starts at zero."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def adapter(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What fine-tuning leaves with ``merge_adapter: false``."""
    folder = tmp_path_factory.mktemp("adapter")
    module = SupervisedFineTuning(tiny_model, lora_rank=4, merge_adapter=False)
    _noisy(module.model)
    module.export(folder)
    return str(folder)


def _copies(module: CodePolicy) -> int:
    """Copies of the base: memory of everything that belongs to no adapter and no critic, by the size of one base."""
    sizes = {
        value.data_ptr(): value.numel()
        for name, value in module.named_parameters(remove_duplicate=False)
        if "lora" not in name and not name.startswith("critic.")
    }
    base = sum(
        value.numel() for value in load_causal_lm(base_of(str(module.hparams["model_name_or_path"]))).parameters()
    )
    assert sum(sizes.values()) % base == 0
    return sum(sizes.values()) // base


def _state(module: CodePolicy, text: str) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.policy.state_dict().items() if text in name}


def _equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("mode", ["adapter_off", "frozen_adapter", "separate"])
def test_each_kind_of_reference_starts_at_a_kl_of_zero_and_stays(
    mode: str, tiny_model: str, adapter: str, tasks: Tasks, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"adapter_off": {"lora_rank": 2}, "separate": {}}.get(mode, {})
    module = _policy(adapter if mode == "frozen_adapter" else tiny_model, **options)
    assert _copies(module) == (2 if mode == "separate" else 1)
    assert (module.reference is not None) == (mode == "separate")
    start = module.act(tasks[:2])
    before, frozen = module.complete(start).ref_log_probs, _state(module, ".reference.")
    base = _state(module, "base_layer")
    trainer, seen = _fit(module, tasks, tmp_path)
    first, last = seen.rollouts
    assert seen.kl[0] == 0.0
    assert torch.equal(first.log_probs, first.ref_log_probs)
    assert not torch.allclose(last.log_probs, last.ref_log_probs, atol=1e-4)
    after = module.complete(start).ref_log_probs
    assert before is not None
    assert after is not None
    assert torch.equal(before, after)  # the reference says what it said
    assert _equal(frozen, _state(module, ".reference."))
    assert _equal(base, _state(module, "base_layer"))
    assert bool(frozen) == (mode == "frozen_adapter")
    assert _copies(module) == (2 if mode == "separate" else 1)
    assert trainer.global_step > 0


def test_the_reference_of_a_tuned_start_is_what_was_tuned(tiny_model: str, adapter: str, tasks: Tasks) -> None:
    """Not the bare base: the scores of the merged model, and far from the base's."""
    module = _policy(adapter)
    rollout = module.act(tasks[:2])
    given = module.complete(rollout).ref_log_probs
    bare = _policy(tiny_model, reference_path=tiny_model).complete(rollout).ref_log_probs
    merged = _policy(tiny_model, reference_path=adapter).complete(rollout).ref_log_probs
    assert given is not None
    assert bare is not None
    assert merged is not None
    torch.testing.assert_close(given, merged, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(given, bare, atol=1e-2)


def test_the_reference_leaves_the_policy_as_it_was(adapter: str, tasks: Tasks) -> None:
    module = _policy(adapter)
    trained = {name for name, value in module.policy.named_parameters() if value.requires_grad}
    assert trained
    assert all(".default." in name for name in trained)
    assert all(part.training for part in module.policy.modules())  # as the trainer expects it
    module.complete(module.act(tasks[:1]))
    assert trained == {name for name, value in module.policy.named_parameters() if value.requires_grad}
    with as_reference(module.policy):
        assert not any(value.requires_grad for value in module.policy.parameters())
    with pytest.raises(KeyError, match="inside"), as_reference(module.policy):
        raise KeyError("inside")
    policy: Any = module.policy
    assert policy.active_adapter == "default"
    assert trained == {name for name, value in module.policy.named_parameters() if value.requires_grad}
    assert not any("reference" in name for name in _policy(adapter, reference=False).policy.state_dict())


@pytest.mark.parametrize("start", ["base", "adapter"])
def test_checkpoints_hold_the_adapter_only_and_load(
    start: str, tiny_model: str, adapter: str, tasks: Tasks, tmp_path: Path
) -> None:
    options = {"lora_rank": 2} if start == "base" else {}
    model = tiny_model if start == "base" else adapter
    module = _policy(model, **options)
    trainer, _ = _fit(module, tasks, tmp_path)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    policy = {name for name in state if name.startswith("policy.")}
    assert policy == {f"policy.{name}" for name in module.policy.state_dict() if ".default." in name}
    assert {name.split(".")[0] for name in state} == {"policy", "critic"}
    again = CodePolicy.load_from_checkpoint(tmp_path / "last.ckpt", reward=None)
    assert _equal(_state(module, ""), _state(again, ""))
    with pytest.raises(ValueError, match=r"the checkpoint has no policy\..*another lora_rank or model_name_or_path"):
        CodePolicy.load_from_checkpoint(tmp_path / "last.ckpt", model_name_or_path=tiny_model, lora_rank=0)


def test_a_frozen_weight_under_two_names_is_left_out_under_both() -> None:
    """Tied embeddings, as SmolLM2 has them."""
    module = torch.nn.ModuleDict({"first": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 2, bias=False)})
    module["head"].weight = module["first"].weight
    module["first"].weight.requires_grad_(False)
    assert set(without_frozen(module, module.state_dict())) == {"first.bias"}


def test_fine_tuning_s_checkpoints_too(tiny_model: str, tmp_path: Path) -> None:
    module = SupervisedFineTuning(tiny_model, lora_rank=2)
    _noisy(module.model)
    rows = [{"prompt": "def f():\n", "completion": "    return 1\n"}] * 2
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    trainer.fit(module, DataLoader(rows, batch_size=2, collate_fn=list))  # type: ignore[arg-type]
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert state
    assert all("lora" in name for name in state)
    again = SupervisedFineTuning.load_from_checkpoint(tmp_path / "last.ckpt")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in module.state_dict().items())
    with pytest.raises(ValueError, match="has no model"):
        SupervisedFineTuning.load_from_checkpoint(tmp_path / "last.ckpt", lora_rank=0)


def test_the_exported_folder_holds_the_adapter_and_names_its_base(
    tiny_model: str, adapter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_adapter(adapter)
    assert not is_adapter(tiny_model)
    assert not list(Path(adapter).glob("model*.safetensors"))
    assert Path(base_of(adapter)).samefile(tiny_model)
    assert Path(base_of(adapter)).is_absolute()
    monkeypatch.chdir(Path(tiny_model).parent)  # also where the base was named from here
    SupervisedFineTuning(Path(tiny_model).name, lora_rank=2, merge_adapter=False).export(tmp_path / "again")
    assert base_of(str(tmp_path / "again")) == str(Path(tiny_model).resolve())
    size = (Path(adapter) / "adapter_model.safetensors").stat().st_size
    assert size < (Path(tiny_model) / "model.safetensors").stat().st_size / 2
    assert load_tokenizer(adapter).get_vocab() == load_tokenizer(tiny_model).get_vocab()


@pytest.mark.parametrize("merge", [True, False])
def test_a_trained_policy_is_exported_either_way(merge: bool, adapter: str, tasks: Tasks, tmp_path: Path) -> None:
    """The frozen adapter stays behind, and both folders say what the policy says."""
    module = _policy(adapter, merge_adapter=merge)
    _fit(module, tasks, tmp_path / "run")
    module.export(tmp_path / "out")
    assert is_adapter(str(tmp_path / "out")) != merge
    assert not (tmp_path / "out" / "reference").exists()
    again = load_causal_lm(str(tmp_path / "out"))
    assert not any("reference" in name for name in again.state_dict())
    ids = torch.tensor([module.tokenizer("def f(xs):\n", add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(
            again(input_ids=ids).logits, module.policy(input_ids=ids).logits, atol=1e-4, rtol=1e-4
        )
        if merge:
            plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
            torch.testing.assert_close(plain(input_ids=ids).logits, again(input_ids=ids).logits)
    assert isinstance(module.policy, PeftModel)  # as it was


def test_other_stages_start_from_an_adapter_too(tiny_model: str, adapter: str) -> None:
    """A second fine-tuning trains it on; critics and reward models are new transformers with it merged in."""
    module = SupervisedFineTuning(adapter)
    assert {name for name, value in module.model.named_parameters() if value.requires_grad} == {
        name for name in module.model.state_dict() if "lora" in name
    }
    trunk = ScalarHeadModel.from_pretrained(adapter).trunk
    assert not any("lora" in name for name in trunk.state_dict())
    assert all(value.requires_grad for value in trunk.parameters())
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        causal: Any = load_causal_lm(adapter)
        states = causal(input_ids=ids, output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(trunk(input_ids=ids).last_hidden_state, states, atol=1e-4, rtol=1e-4)
    assert isinstance(RewardModel(adapter).model, ScalarHeadModel)
    assert isinstance(_policy(adapter, critic="own_trunk").critic, ScalarHeadModel)


def test_what_does_not_fit(tiny_model: str, adapter: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lora_rank=16, but .* holds an adapter of rank 4.*leave lora_rank at 0"):
        load_causal_lm(adapter, lora_rank=16)
    assert load_causal_lm(adapter, lora_rank=4) is not None
    for make in (_policy, SupervisedFineTuning):
        with pytest.raises(ValueError, match="merge_adapter=False exports an adapter, and none is trained"):
            make(tiny_model, merge_adapter=False)
    config = json.loads((Path(adapter) / "adapter_config.json").read_text())
    changes: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"peft_type": "IA3"}, ValueError, "peft_type 'IA3'; only LORA"),
        ({"base_model_name_or_path": None}, ValueError, "names no base_model_name_or_path"),
        ({"base_model_name_or_path": "/no/such/model"}, FileNotFoundError, "names the base /no/such/model"),
        ({"base_model_name_or_path": "/no/model.gguf"}, FileNotFoundError, "names the base /no/model.gguf"),
    ]
    for change, error, says in changes:
        (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(error, match=says):
            load_causal_lm(str(tmp_path))
