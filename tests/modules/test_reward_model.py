"""The reward model: one score everywhere, what a validation measures, constants that survive, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from tamis.datamodules import Preferences
from tamis.functional import bradley_terry_loss
from tamis.modules import CodePolicy, LearnedReward, PreferenceOptimization, RewardModel, SupervisedFineTuning
from tamis.modules.language_model import TokenBatch
from tamis.modules.pair_metrics import PairScore, each_pair_once, measure_pairs

Row = dict[str, Any]

PAIRS: list[Row] = [
    {"prompt": "def f(x):\n", "chosen": "    return x\n", "rejected": "    pass\n", "margin": 0.5},
    {"prompt": "def a_longer_name(first, second):\n", "chosen": "    return first\n", "rejected": " "},
    {"prompt": "x", "chosen": " = 1", "rejected": " = 1 + 2 + 3 + 4\n"},
]


def _adam(lr: float) -> Any:
    return lambda parameters: torch.optim.AdamW(parameters, lr=lr)


def _trainer(folder: Path, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    defaults: dict[str, Any] = {"max_epochs": 1, "enable_checkpointing": False, **quiet}
    return Trainer(accelerator="cpu", default_root_dir=folder, **(defaults | options))


def _loader(rows: Sequence[Row], batch_size: int = 2) -> DataLoader[Any]:
    return DataLoader(rows, batch_size=batch_size, collate_fn=list)  # type: ignore[arg-type]


@pytest.fixture
def model(reward_folder: Path) -> RewardModel:
    """A reward model whose head says something."""
    return RewardModel(str(reward_folder))


def _by_hand(model: RewardModel, prompt: str, response: str) -> float:
    """The head's number at the end token of one text, without padding, mask or batch."""
    ids = [*model.tokenizer(prompt).input_ids, *model.tokenizer(response).input_ids, model.tokenizer.eos_token_id]
    with torch.no_grad():
        hidden = model.model.trunk(input_ids=torch.tensor([ids])).last_hidden_state
        return float(model.model.head(hidden)[0, -1, 0])


@pytest.mark.parametrize("normalise", [False, True])
def test_training_reward_and_evaluation_have_one_score(
    normalise: bool, reward_folder: Path, tiny_model: str, tasks: list[Row]
) -> None:
    """The pairs of a training step, PPO's reward, the samples that evaluation and reliability judge, and `score`."""
    reward = LearnedReward(str(reward_folder), normalise=normalise, batch_size=3)
    model = reward.reward_model
    model.model.reward_mean, model.model.reward_std = 0.25, 2.0
    policy = CodePolicy(tiny_model, reward, num_samples=2, max_new_tokens=6, critic="none", reference=False)
    try:
        samples = policy.judged_samples(tasks[:3], 2, 1.0)
        rollout = policy.reward(policy.act(tasks[:3]))
    finally:
        policy.teardown("test")
    assert rollout.rewards is not None
    for rows, rewards in ((samples, [row["reward"] for row in samples]), (rollout.records, rollout.rewards.tolist())):
        pairs = [{"prompt": row["prompt"], "chosen": row["completion"], "rejected": "x"} for row in rows]
        with torch.no_grad():
            trained = model._score_pairs(pairs)[0].tolist()
            scored = model.score([row["prompt"] for row in rows], [row["completion"] for row in rows]).tolist()
        alone = [_by_hand(model, row["prompt"], row["completion"]) for row in rows]
        assert trained == pytest.approx(scored, abs=1e-5)
        assert scored == pytest.approx(alone, abs=1e-5)
        expected = [(score - 0.25) / 2.0 for score in scored] if normalise else scored
        assert rewards == pytest.approx(expected, abs=1e-5)
    assert len({round(score, 3) for score in scored}) > 1


def test_the_training_loss_has_margin_and_centring(reward_folder: Path, tmp_path: Path) -> None:
    """A pair's own margin comes before the option's."""
    model = RewardModel(str(reward_folder), margin=0.25, centring=0.1)
    chosen, rejected = (
        torch.tensor([_by_hand(model, row["prompt"], row[side]) for row in PAIRS]) for side in ("chosen", "rejected")
    )
    expected = bradley_terry_loss(chosen, rejected, torch.tensor([0.5, 0.25, 0.25]), 0.1)
    plain = bradley_terry_loss(chosen, rejected)
    trainer = _trainer(tmp_path)
    trainer.validate(model, _loader(PAIRS), verbose=False)
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(expected.item(), abs=1e-5)
    model.log = lambda *_, **__: None  # type: ignore[method-assign] # outside a trainer there is nowhere to log to
    assert model.training_step(PAIRS, 0).item() == pytest.approx(expected.item(), abs=1e-5)
    assert abs(expected - plain) > 0.01


def test_the_head_is_in_fp32_whatever_the_trainer_computes_in(model: RewardModel) -> None:
    prompts, responses = [row["prompt"] for row in PAIRS], [row["chosen"] for row in PAIRS]
    heads: list[tuple[Tensor, Tensor]] = []
    model.model.head.register_forward_hook(lambda _, inputs, output: heads.append((inputs[0], output)))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        scores = model.score(prompts, responses)
    (states, numbers), weight = heads[0], model.model.head.weight
    assert scores.dtype == numbers.dtype == states.dtype == weight.dtype == torch.float32
    torch.testing.assert_close(numbers, states @ weight.detach().T + model.model.head.bias.detach())


def test_measures_by_hand() -> None:
    """Differences log 3, -log 3, 0: chances 3/4, 1/4, 1/2, and one of three pairs is right (the tie is not).

    AUC over 9 comparisons of chosen (log 3, 0, 5) with rejected (0, log 3, 5): log 3 wins one, ties one; 0 ties one;
    5 wins two, ties one: (3 + 1.5) / 9. Brier: (1/16 + 9/16 + 1/4) / 3. Calibration: both ways round the bin of 3/4
    holds (3/4, right) and (3/4, wrong), so that it is off by 1/4; so is that of 1/4; that of 1/2 is not: 1/4 * 2/3.
    """
    log3 = math.log(3)
    pairs = [PairScore(None, log3, 0.0, 0.0), PairScore(None, 0.0, log3, 0.0), PairScore(None, 5.0, 5.0, 1.0)]
    numbers = measure_pairs(pairs, centring=0.1)
    assert numbers["accuracy"] == pytest.approx(1 / 3)
    assert numbers["auc"] == pytest.approx(0.5)
    assert numbers["brier"] == pytest.approx((1 / 16 + 9 / 16 + 1 / 4) / 3)
    assert numbers["calibration_error"] == pytest.approx(1 / 4 * 2 / 3, abs=1e-6)
    loss = -math.log(3 / 4) - math.log(1 / 4) + math.log(1 + math.e) + 0.1 * (log3**2 * 2 + 100)
    assert numbers["loss"] == pytest.approx(loss / 3)
    assert numbers["score_chosen_mean"] == pytest.approx((log3 + 5) / 3)
    assert numbers["score_chosen_std"] == pytest.approx(torch.tensor([log3, 0.0, 5.0]).std(correction=0).item())
    assert [numbers[f"score_{side}"] for side in ("chosen_min", "chosen_max", "rejected_min")] == [0.0, 5.0, 0.0]


def test_high_scores_do_not_tie() -> None:
    """A sigmoid in fp32 is 1 from 17 on."""
    numbers = measure_pairs([PairScore(None, 41.0, 40.0, 0.0), PairScore(None, 43.0, 42.0, 0.0)])
    assert numbers["auc"] == pytest.approx(3 / 4)  # 43 is above both, 41 above 40 only


def test_measures_do_not_hang_on_order_or_batches(model: RewardModel, tmp_path: Path, pairs: Path) -> None:
    rows = [json.loads(line) for line in pairs.read_text().splitlines()[:11]]
    found = []
    for data in (_loader(rows, 3), _loader(rows[::-1], 11)):
        trainer = _trainer(tmp_path)
        trainer.validate(model, data, verbose=False)
        found.append({name: value.item() for name, value in trainer.callback_metrics.items()})
    assert found[0] == pytest.approx(found[1], abs=1e-5)
    assert len(found[0]) == 13
    assert all(name.startswith("val/") for name in found[0])


def test_repeated_pairs_of_other_ranks_count_once() -> None:
    """Five pairs on two ranks: the sampler gives the second the first pair again; pairs without a place all count."""
    a, b, c = (PairScore(place, 1.0, 0.0, 0.0) for place in ("f:1", "f:2", "f:3"))
    nowhere = PairScore(None, 1.0, 0.0, 0.0)
    assert each_pair_once([[a, b], [c, a]]) == [a, b, c]
    assert each_pair_once([[nowhere, nowhere], [nowhere]]) == [nowhere] * 3
    assert each_pair_once([[], []]) == []


def _moments(model: RewardModel, rows: Sequence[Mapping[str, Any]]) -> list[float]:
    with torch.no_grad():
        scores = torch.cat(model._score_pairs(rows)).double()
    return [float(scores.mean()), float(scores.std(correction=0))]


def _constants(path: Path, folder: str) -> list[float]:
    again = RewardModel.load_from_checkpoint(path, model_name_or_path=folder)
    return [again.model.reward_mean, again.model.reward_std]


def test_the_constants_of_held_out_responses_are_in_the_checkpoint(
    tiny_model: str, pairs: Path, tmp_path: Path
) -> None:
    """Also of the checkpoint that is written at the end of a validation, before the training epoch ends."""
    model = RewardModel(tiny_model, optimizer=_adam(1e-3), warmup_ratio=0.0)
    saving = ModelCheckpoint(dirpath=tmp_path, monitor="val/auc", mode="max", save_on_train_epoch_end=False)
    data = Preferences(str(pairs), batch_size=16)
    trainer = _trainer(tmp_path, callbacks=[saving], enable_checkpointing=True, limit_train_batches=3)
    trainer.fit(model, data)
    constants = [model.model.reward_mean, model.model.reward_std]
    assert constants == pytest.approx(_moments(model, data.records["validation"]), rel=1e-4, abs=1e-5)
    assert constants[1] != 1.0
    path = Path(saving.best_model_path)
    assert _constants(path, tiny_model) == constants
    assert torch.load(path, weights_only=True)["reward_normalisation"]["std"] == constants[1]
    resumed = RewardModel(tiny_model)
    _trainer(tmp_path).validate(resumed, data, ckpt_path=str(path), verbose=False)
    assert [resumed.model.reward_mean, resumed.model.reward_std] == constants


class _Order(Callback):
    """Notes the prompts of every training batch."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.seen.append([row["prompt"] for row in batch])


@pytest.mark.parametrize("most", [1024, 7])
def test_without_held_out_pairs_a_part_of_the_training_pairs_is_measured(
    most: int, tiny_model: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each epoch's end, with that epoch's checkpoint, and without a change to the order of the next epoch."""
    monkeypatch.setattr("tamis.modules.reward_model._NORMALISATION_PAIRS", most)
    model, order = RewardModel(tiny_model, optimizer=_adam(1e-3), warmup_ratio=0.0), _Order()
    saving = ModelCheckpoint(dirpath=tmp_path)
    data = Preferences(f"{pairs}[:20]", validation_share=0.0, batch_size=8)
    options: dict[str, Any] = {"max_epochs": 2, "enable_checkpointing": True}
    _trainer(tmp_path, callbacks=[saving, order], **options).fit(model, data)
    step = -(-20 // most)
    constants = [model.model.reward_mean, model.model.reward_std]
    assert constants == pytest.approx(_moments(model, data.records["train"][::step]), rel=1e-4, abs=1e-5)
    assert _constants(Path(saving.best_model_path), tiny_model) == constants
    loader = data.train_dataloader()
    expected = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        expected += [[row["prompt"] for row in batch] for batch in loader]
    assert order.seen == expected


def test_a_checkpoint_without_constants_says_so(model: RewardModel) -> None:
    with pytest.warns(UserWarning, match="holds no reward normalisation"):
        model.on_load_checkpoint({"state_dict": {}})


def test_scores_that_are_not_finite_leave_the_constants_alone(model: RewardModel, tmp_path: Path) -> None:
    before = (model.model.reward_mean, model.model.reward_std)
    torch.nn.init.constant_(model.model.head.bias, math.nan)
    model.optimizer = _adam(0.0)
    with pytest.warns(UserWarning, match="the reward's normalisation stays at mean"):
        _trainer(tmp_path, num_sanity_val_steps=0).fit(model, _loader(PAIRS), _loader(PAIRS))
    assert (model.model.reward_mean, model.model.reward_std) == before


def test_a_saved_reward_model_is_read_as_it_was_trained(tiny_model: str, chat_model: str, tmp_path: Path) -> None:
    """Format and longest text stand in the folder: nobody has to say them again, or can say them wrong."""
    trained = RewardModel(chat_model, "chat", max_length=9)
    torch.nn.init.normal_(trained.model.head.weight, std=0.1)
    trained.export(tmp_path)
    reward = LearnedReward(str(tmp_path), normalise=False)
    records, answers = [{"prompt": "a prompt of some words, longer than nine tokens"}] * 2, ["    return x\n", "y"]
    with torch.no_grad():
        scores = trained.score([row["prompt"] for row in records], answers)
    torch.testing.assert_close(reward(records, answers), scores)
    assert (reward.reward_model.prompt_format, reward.reward_model.max_length) == ("chat", 9)
    assert LearnedReward(str(tmp_path), "chat").reward_model.prompt_format == "chat"
    with pytest.raises(ValueError, match="prompt_format=plain, and the reward model in .* was trained with chat"):
        LearnedReward(str(tmp_path), "plain")


def test_a_language_model_without_a_trained_head_is_no_reward(tiny_model: str) -> None:
    with pytest.raises(ValueError, match="without a trained reward head, so that every completion would get the same"):
        LearnedReward(tiny_model)
    with torch.no_grad():
        assert RewardModel(tiny_model).score(["a"], ["b"]).item() == 0.0  # to start training from, it is right


def test_another_vocabulary_is_read_as_text_and_one_beyond_the_model_is_refused(
    tiny_model: str, reward_folder: Path, tasks: list[Row], tmp_path: Path
) -> None:
    """The reward model has a token more than the policy; with its own embedding for it, that is fine."""
    wider = RewardModel(str(reward_folder))
    wider.tokenizer.add_tokens(["<only here>"])
    wider.export(tmp_path)
    with pytest.raises(ValueError, match="has the token '<only here>' with the id .* tokens only"):
        LearnedReward(str(tmp_path))
    wider.model.trunk.resize_token_embeddings(len(wider.tokenizer))
    wider.export(tmp_path)
    policy = CodePolicy(tiny_model, LearnedReward(str(tmp_path), normalise=False), max_new_tokens=4, critic="none")
    rollout = policy.reward(policy.act(tasks[:2]))
    expected = [_by_hand(wider, row["prompt"], row["completion"]) for row in rollout.records]
    assert rollout.rewards is not None
    assert rollout.rewards.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.fixture
def chat_model(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny model with a chat template."""
    folder = tmp_path_factory.mktemp("chat")
    policy = SupervisedFineTuning(tiny_model)
    policy.tokenizer.chat_template = "{% for m in messages %}User: {{ m.content }}\n{% endfor %}Answer:"
    policy.export(folder)
    return str(folder)


@pytest.mark.parametrize("kind", [RewardModel, SupervisedFineTuning, PreferenceOptimization, CodePolicy])
def test_chat_without_a_template_is_refused_when_the_module_is_made(
    kind: Any, tiny_model: str, chat_model: str
) -> None:
    with pytest.raises(
        ValueError, match=r"prompt_format: chat needs a tokenizer with a chat template, and that of \S+"
    ):
        kind(tiny_model, prompt_format="chat")
    assert kind(chat_model, prompt_format="chat").prompt_format == "chat"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": -1.0}, "margin must be at least 0 and finite, got -1.0"),
        ({"centring": math.nan}, "centring must be at least 0 and finite, got nan"),
        ({"max_length": 0}, "max_length must be at least 1 token, got 0"),
    ],
)
def test_options_out_of_range(options: Row, message: str, tiny_model: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewardModel(tiny_model, **options)


def test_a_score_is_that_of_the_last_token_behind_any_padding(model: RewardModel) -> None:
    tokens = model._tokens([PAIRS[0]["prompt"]], [PAIRS[0]["chosen"]])
    padded = TokenBatch(*(torch.nn.functional.pad(part, (5, 0)) for part in tokens))
    with torch.no_grad():
        assert model._read(padded).item() == pytest.approx(model._read(tokens).item(), abs=1e-5)


class _Sanity(Callback):
    """Notes the constants behind the sanity check."""

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, RewardModel)
        self.mean = pl_module.model.reward_mean


def test_only_validations_of_training_set_the_constants(model: RewardModel, tmp_path: Path) -> None:
    model.model.reward_mean, model.model.reward_std = 7.0, 3.0
    _trainer(tmp_path).validate(model, _loader(PAIRS), verbose=False)
    assert (model.model.reward_mean, model.model.reward_std) == (7.0, 3.0)
    sanity = _Sanity()
    _trainer(tmp_path, callbacks=[sanity]).fit(model, _loader(PAIRS), _loader(PAIRS))
    assert sanity.mean == 7.0 != model.model.reward_mean


def test_a_long_prompt_loses_its_beginning(reward_folder: Path) -> None:
    """The response, its end token and what stands before them stay."""
    prompt, response = "a long prompt of which little is left\n", "    return x\n"
    short = RewardModel(str(reward_folder), max_length=9)
    ids = short.tokenizer(prompt).input_ids + short.tokenizer(response).input_ids + [short.tokenizer.eos_token_id]
    assert short._tokens([prompt], [response]).ids.tolist() == [ids[-9:]]
    assert len(ids) > 9
