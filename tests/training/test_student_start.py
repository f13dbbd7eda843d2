"""How a student starts: its projection, and options that must change what they say and no more."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn import functional
from transformers import AutoConfig, AutoTokenizer, BertConfig, BertModel

from distill.distributed.optimizer import build_optimizer, set_learning_rate
from distill.encoders.directory import load_encoder, save_encoder
from distill.errors import InputError
from distill.recipe.files import load_settings
from distill.recipe.recipe import Recipe
from distill.training.building import stored_sentences
from distill.training.student_start import load_teacher, start_student


@pytest.fixture(scope="module")
def other_backbone(tiny_world, tmp_path_factory):
    """Another model: wider, deeper, and over a tokenizer that cuts words into characters."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    directory = tmp_path_factory.mktemp("other")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz0123456789"]
    tokenizer = Tokenizer(models.WordLevel({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Split(Regex("."), "isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(directory)
    torch.manual_seed(11)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=64,
        pad_token_id=0,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(directory)
    return directory


def recipe_with(tiny_world, *overrides):
    return load_settings(Recipe, tiny_world.recipe, list(overrides))


def start(tiny_world, *overrides, **options):
    recipe = recipe_with(tiny_world, *overrides)
    return start_student(recipe, lambda side: stored_sentences(recipe, side), **options)


def sentence_means(student, student_text, recipe, sentences):
    """Mean student tokens and mean teacher tokens (B, D) of sentences, each about its centre."""
    teacher, teacher_text = load_teacher(recipe)
    means = []
    for encoder, text in ((student, student_text), (teacher, teacher_text)):
        tokens = text.queries(sentences)
        with torch.no_grad():
            vectors = encoder.eval()(tokens.input_ids, tokens.attention_mask)
        mask = tokens.scoring_mask.unsqueeze(-1)
        means.append((vectors * mask).sum(dim=1) / mask.sum(dim=1))
    return [functional.normalize(mean - mean.mean(dim=0), dim=-1) for mean in means]


def agreement(*arguments):
    """Mean cosine of a sentence's means."""
    ours, theirs = sentence_means(*arguments)
    return (ours * theirs).sum(dim=-1).mean().item()


def accuracy(*arguments):
    """Share of sentences whose teacher is nearest."""
    ours, theirs = sentence_means(*arguments)
    nearest = (ours @ theirs.T).argmax(dim=1)
    return (nearest == torch.arange(len(nearest))).float().mean().item()


def test_least_squares_brings_another_backbone_to_the_teacher(tiny_world, tmp_path, capsys):
    """Weights are random, so what a backbone can tell apart is its words."""
    AutoTokenizer.from_pretrained(tiny_world.backbone).save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tiny_world.backbone)
    config.hidden_size, config.intermediate_size = 48, 96
    torch.manual_seed(12)
    BertModel(config).save_pretrained(tmp_path)
    model = f"student.model={tmp_path}"
    recipe = recipe_with(tiny_world, model)
    sentences = stored_sentences(recipe, "target")[5::20]
    found = {}
    for kind in ("fresh", "least_squares"):
        student, text = start(tiny_world, model, f"student.projection={kind}")
        assert student.embedding_dimension == 16
        found[kind] = accuracy(student, text, recipe, sentences)
    assert found["least_squares"] > 0.8
    assert found["fresh"] < 0.3
    assert "English sentences: mean cosine" in capsys.readouterr().out


def test_shared_is_the_teachers_projection(tiny_world):
    model = f"student.model={tiny_world.backbone}"
    student, text = start(tiny_world, model, "student.projection=shared")
    teacher, _ = load_encoder(str(tiny_world.teacher))
    assert torch.equal(student.projection.weight, teacher.projection.weight)
    # The same backbone with the same projection and markers is the teacher.
    assert agreement(student, text, recipe_with(tiny_world), ["red river", "blue moon"]) > 0.999


def test_a_student_of_another_width_gets_a_fitted_projection(tiny_world, tmp_path):
    encoder, text = load_encoder(str(tiny_world.backbone), embedding_dimension=24)
    save_encoder(tmp_path, encoder, text)
    model = f"student.model={tmp_path}"
    with pytest.raises(InputError, match=r"set student\.projection=least_squares"):
        start(tiny_world, model)
    student, _ = start(tiny_world, model, "student.projection=least_squares")
    assert student.embedding_dimension == 16


def test_a_bare_teacher_is_followed_in_its_own_width(tiny_world, other_backbone):
    bare = [f"teacher={tiny_world.backbone}", "bare_teacher=true"]
    student, text = start(tiny_world, *bare)
    teacher, _ = load_teacher(recipe_with(tiny_world, *bare))
    assert student.embedding_dimension == teacher.embedding_dimension == 32
    assert agreement(student, text, recipe_with(tiny_world, *bare), ["red river", "fire"]) > 0.999
    other, _ = start(tiny_world, *bare, f"student.model={other_backbone}")
    assert other.embedding_dimension == 32


def test_pruning_keeps_every_sentence_of_the_shards(tiny_world):
    teacher, text = load_encoder(str(tiny_world.teacher))
    student, small = start(tiny_world, "student.prune_vocabulary=true")
    assert len(small.tokenizer) < len(text.tokenizer)
    recipe = recipe_with(tiny_world)
    for side in ("source", "target"):
        sentences = stored_sentences(recipe, side)[:100]
        tokens, pruned = text.queries(sentences), small.queries(sentences)
        with torch.no_grad():
            expected = teacher.eval()(tokens.input_ids, tokens.attention_mask)
            found = student.eval()(pruned.input_ids, pruned.attention_mask)
        assert torch.equal(expected, found)


def gradients(student, text):
    student.train()
    tokens = text.queries(["swader swarevir swadna swaerif", "swaeulb swanoom"])
    student(tokens.input_ids, tokens.attention_mask)[..., 0].sum().backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in student.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("override", ["gradient_checkpointing=true", "attention=eager"])
def test_gradients_stay_the_same(override, tiny_world):
    expected = gradients(*start(tiny_world))
    student, text = start(tiny_world, f"student.{override}")
    if "attention" in override:
        assert student.backbone.config._attn_implementation == "eager"
    else:
        assert student.backbone.is_gradient_checkpointing
    found = gradients(student, text)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_compiled_backbone_gives_the_same_vectors_at_any_length(tiny_world):
    plain, text = start(tiny_world)
    student, _ = start(tiny_world, "student.compile=true")
    assert set(student.state_dict()) == set(plain.state_dict())
    for sentences in (["red"], ["red river and the golden market", "fire", "blue moon"]):
        tokens = text.queries(sentences)
        with torch.no_grad():
            expected = plain.eval()(tokens.input_ids, tokens.attention_mask)
            found = student.eval()(tokens.input_ids, tokens.attention_mask)
        mask = tokens.scoring_mask
        torch.testing.assert_close(found[mask], expected[mask], rtol=0, atol=1e-5)


def test_rates_fall_from_layer_to_layer(tiny_world):
    recipe = recipe_with(tiny_world, "student.layer_decay=0.5")
    student, _ = start(tiny_world, "student.layer_decay=0.5")
    optimizer = build_optimizer(student, recipe.optimizer, recipe.student.layer_decay)
    set_learning_rate(optimizer, 0.8)
    names = {id(parameter): name for name, parameter in student.named_parameters()}
    rates = {
        names[id(parameter)]: group["lr"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert rates["projection.weight"] == 0.8
    assert rates["backbone.encoder.layer.1.output.dense.weight"] == 0.8
    assert rates["backbone.encoder.layer.0.output.dense.weight"] == 0.4
    assert rates["backbone.embeddings.word_embeddings.weight"] == 0.2
    set_learning_rate(optimizer, 0.4)
    assert {group["lr"] for group in optimizer.param_groups} == {0.4, 0.2, 0.1}


REFUSED = {
    "projection without another model": (
        ["student.projection=least_squares"],
        "set student.model",
    ),
    "a shared projection of another width": (
        ["student.model={other}", "student.projection=shared"],
        "expected the backbone's 48",
    ),
    "adapters on a part that is frozen": (
        ["student.lora={rank: 4}", "student.freeze_layers=1", "student.freeze_embeddings=true"],
        "adapters train",
    ),
    "flash attention without CUDA": (
        ["student.attention=flash_attention_2"],
        "a CUDA device and the package flash-attn",
    ),
    "a decay above one": (["student.layer_decay=1.5"], "0 < layer_decay <= 1"),
    "pruning what is all in use": (
        ["student.model={other}", "student.prune_vocabulary=true"],
        "the shards use every token",
    ),
    "adapters that no layer takes": (
        ["student.freeze_embeddings=true", "student.lora={targets: [q_proj]}"],
        "name some of these",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_setting_without_effect_is_an_error(name, tiny_world, other_backbone):
    if name == "flash attention without CUDA" and torch.cuda.is_available():
        pytest.skip("CUDA is here")
    if "lora" in str(REFUSED[name]):
        pytest.importorskip("peft", reason="needs the lora extra")
    overrides, message = REFUSED[name]
    with pytest.raises(InputError) as caught:
        start(tiny_world, *(text.format(other=other_backbone) if "{other}" in text else text
                            for text in overrides))  # fmt: skip
    assert message in str(caught.value)


@pytest.mark.parametrize("setting", ["prune_vocabulary=true", "texts_per_forward=4"])
def test_whole_weights_are_asked_for_before_zero_3_partitions_them(tiny_world, setting):
    with pytest.raises(InputError, match=r"student_zero2\.json"):
        start(tiny_world, f"student.{setting}", partitioned=True)


@pytest.mark.slow
def test_a_run_with_all_of_it(tiny_world, other_backbone, tmp_path):
    """Another backbone with a fitted projection, adapters and recomputation, from start to end."""
    pytest.importorskip("peft", reason="needs the lora extra")
    from distill.train import main

    main(
        [
            str(tiny_world.recipe),
            f"runs={tmp_path}",
            "max_steps=4",
            f"student.model={other_backbone}",
            "student.projection=least_squares",
            "student.freeze_embeddings=true",
            "student.lora={rank: 4}",
            "student.layer_decay=0.8",
            "student.gradient_checkpointing=true",
            "data.num_workers=0",
        ]
    )
    encoder, _ = load_encoder(str(tmp_path / "tiny/student"))
    assert encoder.embedding_dimension == 16
    assert encoder.backbone.config.num_hidden_layers == 3
    assert not [name for name in encoder.state_dict() if "lora" in name]
    results = json.loads((tmp_path / "tiny/evaluation/colours/step-4/results.json").read_text())
    assert next(r for r in results if r["system"] == "student")["pairs"]["sw-en"]["AP"] > 0
