"""One contender of `benchmarks/training.py`: runs training steps and writes what they took.

    python training_steps.py CONTENDER TASK.json ANSWER.json

Runs under the interpreter of the contender's own environment, so each function imports what only
its environment has. TASK names the model's directories, the pairs, batch size, length and steps.
Every contender tokenises, encodes, takes its loss, goes backward and makes an AdamW step over the
same parameters: word embeddings are fixed in all.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peak_memory import rise_of_peak

Pairs = list[tuple[str, str]]
#: Makes the step for a task: a function of English sentences and translations.
Make = Callable[[dict[str, Any], bool], Callable[[Pairs], None]]


def finish(model: Any, embeddings: Any) -> torch.optim.AdamW:
    """Fix word embeddings; AdamW over the rest."""
    embeddings.weight.requires_grad_(False)
    trains = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trains, lr=1e-5)


def ours(task: dict[str, Any], cached: bool) -> Callable[[Pairs], None]:
    """Token-level OT as a run does it, without the stream and the curves."""
    from distill.distributed.zero import Engines
    from distill.embedding.fixed_shapes import TeacherSide
    from distill.embedding.teacher_cache import TeacherCache
    from distill.encoders.directory import load_encoder
    from distill.objectives.combination import CombinedObjective
    from distill.objectives.encodings import RunFacts
    from distill.objectives.settings import ObjectiveSettings
    from distill.stream.batch import Batch
    from distill.training.pair_encoding import PairEncoder
    from distill.training.teacher_caches import TeacherCaches

    student, text = load_encoder(task["teacher"])
    teacher, teacher_text = load_encoder(task["teacher"])
    teacher.eval().requires_grad_(False)
    optimizer = finish(student.train(), student.backbone.get_input_embeddings())
    caches = None
    if cached:
        english = list(dict.fromkeys(target for _, target in task["pairs"]))
        side = TeacherSide(
            lambda tokens: teacher(tokens.input_ids, tokens.attention_mask),
            teacher_text.queries,
            teacher_text.settings.query_length,
            teacher_text.tokenizer.pad_token_id,
        )
        cache = TeacherCache.open(Path(task["teacher"]) / "cache", "key", side, "cpu")
        cache.include(english)
        caches = TeacherCaches(cache, None)
    facts = RunFacts(("sw-en",), student.embedding_dimension, 100, 0, torch.device("cpu"))
    objective = CombinedObjective(ObjectiveSettings(), facts)
    engines = Engines(student, teacher, optimizer, None)
    encode = PairEncoder(engines, teacher_text, text, True, caches)

    def step(pairs: Pairs) -> None:
        sources, targets = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        batch = Batch(
            source=text.queries(sources),
            target=teacher_text.queries(targets),
            pair_codes=torch.zeros(len(pairs), dtype=torch.int64),
            keys=[str(number) for number in range(len(pairs))],
            source_texts=sources,
            target_texts=targets,
        )
        objective(encode(batch, objective.needs), 0).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def sentence_transformers(task: dict[str, Any], cached: bool) -> Callable[[Pairs], None]:
    """Multilingual MSE distillation (Reimers & Gurevych 2020): both sides to the teacher's vector.

    As the library's own example: English and translation are inputs, the label is the teacher's
    vector of the English side, encoded beforehand where it is cached.
    """
    from sentence_transformers import SentenceTransformer, losses, models

    def load() -> Any:
        transformer = models.Transformer(task["backbone"], max_seq_length=task["length"])
        pooling = models.Pooling(transformer.get_word_embedding_dimension(), "mean")
        return SentenceTransformer(modules=[transformer, pooling], device="cpu")

    student, teacher = load(), load()
    backbone = student[0].auto_model
    optimizer = finish(student.train(), backbone.get_input_embeddings())
    loss = losses.MSELoss(model=student)
    english = [target for _, target in task["pairs"]]
    known: dict[str, torch.Tensor] = {}
    if cached:
        vectors = teacher.encode(english, convert_to_tensor=True, show_progress_bar=False)
        known = dict(zip(english, vectors, strict=True))

    def step(pairs: Pairs) -> None:
        sources, targets = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        if cached:
            labels = torch.stack([known[sentence] for sentence in targets])
        else:
            labels = teacher.encode(
                targets, batch_size=len(targets), convert_to_tensor=True, show_progress_bar=False
            )
        features = [student.tokenize(targets), student.tokenize(sources)]
        loss(features, labels.clone()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def pylate(task: dict[str, Any], cached: bool) -> Callable[[Pairs], None]:
    """Knowledge distillation of MaxSim scores, with the fewest documents it takes: two a query.

    The query is the translation, the documents its English sentence and a neighbour's; labels are
    the teacher's scores of the English sentence with both.
    """
    from pylate import losses, models, scores

    student = models.ColBERT(task["teacher"], device="cpu")
    teacher = models.ColBERT(task["teacher"], device="cpu")
    optimizer = finish(student.train(), student[0].auto_model.get_input_embeddings())
    loss = losses.Distillation(model=student)
    known: dict[tuple[str, str], torch.Tensor] = {}

    def encode(texts: list[str], is_query: bool) -> Any:
        return teacher.encode(
            texts,
            is_query=is_query,
            batch_size=len(texts),
            convert_to_tensor=True,
            show_progress_bar=False,
        )

    def labels_of(targets: list[str], documents: list[str]) -> torch.Tensor:
        queries, stored = encode(targets, True), encode(documents, False)
        rows = [
            [
                scores.colbert_scores(query[None], stored[2 * row + way][None])[0, 0]
                for way in (0, 1)
            ]
            for row, query in enumerate(queries)
        ]
        return torch.tensor(rows)

    def step(pairs: Pairs) -> None:
        sources, targets = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        documents = [
            text
            for row, own in enumerate(targets)
            for text in (own, targets[(row + 1) % len(targets)])
        ]
        key = (targets[0], targets[-1])
        if not cached or key not in known:
            known[key] = labels_of(targets, documents)
        features = [student.tokenize(sources, is_query=True), student.tokenize(documents, False)]
        loss(features, known[key].clone()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


CONTENDERS: dict[str, Make] = {
    "ours": ours,
    "sentence_transformers": sentence_transformers,
    "pylate": pylate,
}


def main() -> None:
    """Run the steps; processor time is counted, since other programs share the machine."""
    name, task_path, answer_path = sys.argv[1:4]
    task = json.loads(Path(task_path).read_text())
    torch.set_num_threads(task["threads"])
    torch.manual_seed(0)
    step = CONTENDERS[name](task, task["cached"])
    size = task["batch"]
    batches = [
        task["pairs"][start : start + size]
        for start in range(0, len(task["pairs"]) - size + 1, size)
    ]
    for batch in batches:  # Every batch once: caches fill, memory is there.
        step(batch)
    seconds, processor = [], []
    for number in range(task["steps"]):
        before, before_processor = time.perf_counter(), time.process_time()
        step(batches[number % len(batches)])
        seconds.append(time.perf_counter() - before)
        processor.append(time.process_time() - before_processor)
    memory = rise_of_peak(lambda: step(batches[0]), "cpu")
    answer = {"seconds": seconds, "processor_seconds": processor, "memory_mib": memory}
    Path(answer_path).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
