"""What `distill/train.py` refuses: case, arguments, and a part of the message."""

from __future__ import annotations

from collections.abc import Callable

from bad_input.broken_inputs import (
    Arguments,
    broken_collection,
    broken_yaml,
    edited_manifest,
    read_only_runs,
    run_to_go_on_from,
    train_with,
    used_run,
    without_shard,
)

TRAIN_CASES: dict[str, tuple[Callable[..., Arguments], str]] = {
    "missing recipe": (lambda w, t: [str(t / "no.yaml")], "check the path"),
    "recipe that is no YAML": (broken_yaml, "expected YAML in UTF-8"),
    "unknown key": (lambda w, t: train_with(w, "max_stepz=3"), "did you mean max_steps?"),
    "unknown section": (lambda w, t: train_with(w, "optimiser.x=3"), "did you mean optimizer?"),
    "wrong type": (lambda w, t: train_with(w, "max_steps=many"), "max_steps: 'many'"),
    "argument without =": (lambda w, t: train_with(w, "resume"), "expected key=value"),
    "pair with no hyphen": (lambda w, t: train_with(w, "pairs=[swen]"), "write it like sw-en"),
    "pair without bitext": (lambda w, t: train_with(w, "pairs=[yo-en]"), "yo-en"),
    "processes disagree": (
        lambda w, t: train_with(w, "launch.num_processes=2"),
        "launch with --num_processes 2",
    ),
    "teacher that is nowhere": (
        lambda w, t: train_with(w, "teacher=org/model"),
        "set allow_downloads=true",
    ),
    "directory that is no model": (
        lambda w, t: train_with(w, f"teacher={t}"),
        "has no config.json",
    ),
    "teacher without projection": (
        lambda w, t: train_with(w, f"teacher={w.backbone}"),
        "train one with distill/train_teacher.py",
    ),
    "late interaction called bare": (
        lambda w, t: train_with(w, "bare_teacher=true"),
        "set bare_teacher=false",
    ),
    "projection of the teacher's own student": (
        lambda w, t: train_with(w, "student.projection=shared"),
        "remove student.projection",
    ),
    "layers that speed up downwards": (
        lambda w, t: train_with(w, "student.layer_decay=2"),
        "student.layer_decay: 2",
    ),
    "chunks above a micro-batch": (
        lambda w, t: train_with(w, "student.texts_per_forward=16"),
        "raise data.micro_batch, or leave texts_per_forward out",
    ),
    "adapters beside trained embeddings": (
        lambda w, t: train_with(w, "student.lora={rank: 4}"),
        "remove the other setting",
    ),
    "stored tokens of a vocabulary that is pruned": (
        lambda w, t: train_with(w, "student.prune_vocabulary=true", "data.stored_tokens=true"),
        "set one to false",
    ),
    "student that is no model": (
        lambda w, t: train_with(w, f"student.model={t}"),
        "student.model",
    ),
    "no shards there": (lambda w, t: train_with(w, f"data.shards=[{t}]"), "manifest.json"),
    "shards of another version": (
        lambda w, t: edited_manifest(w, t, format_version=99),
        "99",
    ),
    "vanished shard": (without_shard, "train-"),
    "batch above the data": (
        lambda w, t: train_with(w, "data.micro_batch=5000"),
        "lower micro_batch",
    ),
    "batches ahead without workers": (
        lambda w, t: train_with(w, "data.num_workers=0", "data.prefetch_batches=2"),
        "set data.num_workers to 1 or more",
    ),
    "buckets without a window": (
        lambda w, t: train_with(w, "data.bucket_window=0", "data.bucket_size=32"),
        "set data.bucket_window",
    ),
    "budget of tokens without their number": (
        lambda w, t: train_with(w, "data.tokens_per_batch=100"),
        "set data.stored_tokens=true, and run distill store-tokens RECIPE once",
    ),
    "budget of tokens below a sentence's": (
        lambda w, t: train_with(w, "data.tokens_per_batch=31", "data.stored_tokens=true"),
        "lower query_length",
    ),
    "budget of tokens that no batch meets": (
        lambda w, t: train_with(w, "data.tokens_per_batch=256", "data.stored_tokens=true"),
        "set data.micro_batch=64",
    ),
    "cache of shards that are here": (
        lambda w, t: train_with(w, f"data.cache.folder={t}"),
        "leave data.cache out",
    ),
    "tokens that were not stored": (
        lambda w, t: train_with(w, "data.stored_tokens=true"),
        "run distill store-tokens RECIPE",
    ),
    "limit above the data": (
        lambda w, t: train_with(w, "data.max_pairs=5000"),
        "data.max_pairs: 5000",
    ),
    "words switched without a lexicon": (
        lambda w, t: train_with(w, "data.code_switching.share=0.3"),
        "set code_switching.lexicon",
    ),
    "lexicon of a pair that is missing": (
        lambda w, t: train_with(w, f"data.code_switching={{share: 0.3, lexicon: {t}}}"),
        "learn one with distill learn-lexicon RECIPE",
    ),
    "lexicon that switches nothing": (
        lambda w, t: train_with(w, f"data.code_switching.lexicon={t}"),
        "set data.code_switching.share",
    ),
    "English words switched that nobody reads": (
        lambda w, t: train_with(
            w, f"data.code_switching={{share: 0.3, lexicon: {t}, side: target}}"
        ),
        "set data.hybrid.monolingual_share above 0",
    ),
    "source words switched that nobody reads": (
        lambda w, t: train_with(
            w,
            f"data.code_switching={{share: 0.3, lexicon: {t}}}",
            "data.hybrid.monolingual_share=1",
        ),
        "set side to target",
    ),
    "spans that no sample is cropped to": (
        lambda w, t: train_with(w, "data.cropping.max_words=5"),
        "set data.cropping.share",
    ),
    "longest span shorter than the shortest": (
        lambda w, t: train_with(w, "data.cropping={share: 0.5, min_words: 4, max_words: 2}"),
        "data.cropping.max_words: 2",
    ),
    "spans of no word": (
        lambda w, t: train_with(w, "data.cropping={share: 0.5, min_words: 0}"),
        "data.cropping.min_words: 0",
    ),
    "share of spans below zero": (
        lambda w, t: train_with(w, "data.cropping.share=-0.5"),
        "data.cropping.share",
    ),
    "share above one": (
        lambda w, t: train_with(w, "data.hybrid.monolingual_share=3"),
        "a share from 0 to 1",
    ),
    "no split of that name": (lambda w, t: train_with(w, "data.split=test"), "test"),
    "contradicting mixing": (
        lambda w, t: train_with(w, "data.mixing.temperature=3"),
        "set kind to 'temperature'",
    ),
    "weights of other pairs": (
        lambda w, t: train_with(w, "data.mixing={kind: weights, weights: {yo-en: 1}}"),
        "name exactly the pairs",
    ),
    "evaluated pair that no collection has": (
        lambda w, t: train_with(w, "evaluation.pairs=[yo-en]"),
        "no queries for yo-en",
    ),
    "no collection there": (
        lambda w, t: train_with(w, f"evaluation.collections=[{t / 'none'}]"),
        "none",
    ),
    "broken line in documents": (
        lambda w, t: broken_collection(w, t, "docs.jsonl", '{"id": "d1", "text": \n'),
        "docs.jsonl:1",
    ),
    "document listed twice": (
        lambda w, t: broken_collection(w, t, "docs.jsonl", '{"id": "d0", "text": "a"}\n' * 2),
        "d0",
    ),
    "qrels of unknown documents": (
        lambda w, t: broken_collection(w, t, "qrels.tsv", "q0\t0\tnobody\t1\n"),
        "nobody",
    ),
    "qrels with words for grades": (
        lambda w, t: broken_collection(w, t, "qrels.tsv", "q0\t0\td0\trelevant\n"),
        "qrels.tsv:1",
    ),
    "run directory that is a file": (read_only_runs, "set runs=DIRECTORY"),
    "used run directory": (used_run, "checkpoint.resume=auto"),
    "resume with other settings": (
        lambda w, t: run_to_go_on_from(w, t, 1, "optimizer.learning_rate=5e-5"),
        "other settings of optimizer",
    ),
    "wall clock of nothing": (
        lambda w, t: train_with(w, "checkpoint.wall_clock_minutes=0"),
        "checkpoint.wall_clock_minutes: 0",
    ),
    "no checkpoint kept": (
        lambda w, t: train_with(w, "checkpoint.keep_last=0"),
        "checkpoint.keep_last: 0",
    ),
    "watchdog later than the timeout": (
        lambda w, t: train_with(w, "launch.hang_seconds=300"),
        "less than launch.timeout_seconds (300)",
    ),
    "every loss off": (
        lambda w, t: train_with(
            w, "objectives.transport.weight=0", "objectives.score_distillation.weight=0"
        ),
        "set one weight above 0",
    ),
    "loss that is off by its schedule": (
        lambda w, t: train_with(
            w,
            "objectives.transport.schedule=[[0, 1], [3, 0]]",
            "objectives.score_distillation.weight=0",
        ),
        "every weight is 0 in step 3",
    ),
    "schedule beyond the run": (
        lambda w, t: train_with(w, "objectives.transport.schedule=[[100, 0], [200, 1]]"),
        "changes within them",
    ),
    "schedule without a weight": (
        lambda w, t: train_with(w, "objectives.anchor.schedule=[[0, 0], [3, 1]]"),
        "set weight or leave it out",
    ),
    "schedule out of order": (
        lambda w, t: train_with(w, "objectives.transport.schedule=[[3, 0], [1, 1]]"),
        "sort the points",
    ),
    "discriminator without a width": (
        lambda w, t: train_with(w, "objectives.adversarial.hidden_size=0"),
        "objectives.adversarial.hidden_size: 0",
    ),
    "anchor on tokens that differ": (
        lambda w, t: train_with(
            w,
            "objectives.anchor.weight=1",
            f"student.model={w.backbone}",
            "student.text.query_length=16",
        ),
        "set objectives.anchor.level=sentence",
    ),
    "epsilon of zero": (
        lambda w, t: train_with(w, "objectives.transport.epsilon=0"),
        "epsilon",
    ),
    "no solver of that name": (
        lambda w, t: train_with(w, "objectives.transport.solver=magic"),
        "magic",
    ),
}
