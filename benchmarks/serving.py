"""The query encoder without torch against the student in torch: one query at a time, one core.

    python benchmarks/serving.py [--quick] [--json FILE]
        [--run RUN --collection COLLECTION [--which student]]

Without a run, a student of multilingual-e5-small's shape with random weights and a small vocabulary
is timed. With a finished run and a collection, its own student is, and a second table says what
int8 does to average precision and to the first ten of each query, over documents that the run's
teacher encodes. Every contender answers the same queries in a fresh process on one thread; the time
is the median of a query's CPU seconds, which other load on the machine disturbs less than wall
clock, and memory is the process's peak.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
CONTENDERS = ("torch", "float32", "int8")
#: Share of torch's time that int8 may take, and AP that it may lose.
TIME, AP_LOSS = 0.4, 0.005


def make_student(folder: Path) -> list[str]:
    """A student of multilingual-e5-small's shape, and queries of its words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from distill.encoders.directory import load_encoder, save_encoder

    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = ["query", "document", *(f"neno{number}" for number in range(20_000))]
    vocabulary = {token: number for number, token in enumerate([*specials, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), specials,
                   strict=True)),
    ).save_pretrained(folder / "backbone")  # fmt: skip
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=384, num_hidden_layers=12, num_attention_heads=12,
        intermediate_size=1536,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder / "backbone")
    save_encoder(folder / "student", *load_encoder(str(folder / "backbone")))
    draw = np.random.default_rng(0)
    # As long as questions in subword tokens.
    return [" ".join(draw.choice(words, draw.integers(8, 24))) for _ in range(500)]


def write_folder(student: Path, folder: Path) -> None:
    """The student's ``onnx/``, as the export writes it."""
    from distill.encoders.directory import load_encoder
    from distill.export.onnx_files import write_onnx

    folder.mkdir(exist_ok=True)
    encoder, text = load_encoder(str(student))
    print("\n".join(write_onnx(folder, encoder.eval(), text)))


def worker(name: str, folder: Path) -> None:
    """Answer the queries with one contender; prints a JSON line and stores the vectors."""
    queries = json.loads((folder / "queries.json").read_text())
    if name == "torch":
        import torch

        from distill.search.searcher import load_query_encoder

        torch.set_num_threads(1)
        encoder = load_query_encoder("student", json.loads((folder / "student.json").read_text()))

        def encode(query: str) -> np.ndarray:
            return encoder.encode(query).numpy()
    else:
        sys.path.insert(0, str(folder / "onnx"))
        from query_encoder import QueryEncoder

        reader = QueryEncoder(folder / "onnx", int8=name == "int8", num_threads=1)

        def encode(query: str) -> np.ndarray:
            return reader.encode([query])[0]

    for query in queries[:5]:
        encode(query)
    seconds, vectors = [], []
    for query in queries:
        start = time.process_time()
        vectors.append(encode(query))
        seconds.append(time.process_time() - start)
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
    np.savez(folder / f"{name}.npz", *vectors)
    print(json.dumps({"ms": 1000 * float(np.median(seconds)), "mib": peak}))


def run(name: str, folder: Path) -> dict[str, float]:
    """A contender in a process of its own; Linux only (/proc)."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, "--worker", name, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        check=True,
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def vectors_of(name: str, folder: Path) -> list[np.ndarray]:
    """What a contender stored, in the order of the queries."""
    stored = np.load(folder / f"{name}.npz")
    return [stored[f"arr_{number}"] for number in range(len(stored.files))]


def speed_rows(found: dict[str, dict[str, float]]) -> list[dict]:
    """Time and memory of both models against torch."""
    rows = []
    for name in CONTENDERS[1:]:
        for key, metric in (("ms", "CPU ms per query"), ("mib", "peak memory, MiB")):
            ratio = found[name][key] / found["torch"][key]
            target = TIME if (name, key) == ("int8", "ms") else None
            rows.append(
                {"case": name, "metric": metric, "ours": found[name][key], "peer": "torch",
                 "peer_value": found["torch"][key], "ratio": ratio, "target": target,
                 "met": None if target is None else ratio <= target}
            )  # fmt: skip
    return rows


def ranking_rows(
    folder: Path, teacher: str, collection, asked: list[tuple[str, str]]
) -> list[dict]:
    """AP and the first ten of both models against torch's."""
    import torch

    from distill.embedding.embeddings import from_rows
    from distill.embedding.encoding import encode_texts
    from distill.embedding.maxsim_search import search
    from distill.embedding.passages import Passages
    from distill.encoders.directory import load_encoder
    from distill.evaluation.measures import evaluate_run, mean_over_queries
    from distill.evaluation.runs import Ranking

    encoder, text = load_encoder(teacher)
    ids, texts = list(collection.documents), list(collection.documents.values())
    encoded = encode_texts(
        lambda tokens: encoder.eval()(tokens.input_ids, tokens.attention_mask),
        text.documents, texts, 32,
    )  # fmt: skip
    assert encoded is not None
    passages = Passages.one_each([encoded.texts])
    values, tops = {}, {}
    for name in CONTENDERS:
        rows = [torch.from_numpy(vectors) for vectors in vectors_of(name, folder)]
        found = search(from_rows(rows), [encoded], passages, len(ids))
        means = []
        for pair in dict.fromkeys(pair for pair, _ in asked):
            ranking = {
                query: Ranking([ids[place] for place in found[n][0].tolist()], found[n][1].numpy())
                for n, (own, query) in enumerate(asked)
                if own == pair
            }
            qrels = {query: collection.qrels[pair][query] for query in ranking}
            per_query = evaluate_run(qrels, ranking, ["AP"])
            means.append(mean_over_queries(per_query, ["AP"])["AP"])
        values[name] = float(np.mean(means))
        tops[name] = [set(found[n][0][:10].tolist()) for n in range(len(asked))]
    rows = []
    for name in CONTENDERS[1:]:
        shared = [len(a & b) / len(a) for a, b in zip(tops[name], tops["torch"], strict=True)]
        loss = values["torch"] - values[name]
        rows += [
            {"case": name, "metric": "mean AP", "ours": values[name], "peer": "torch",
             "peer_value": values["torch"], "ratio": values[name] / values["torch"],
             "target": AP_LOSS, "met": loss <= AP_LOSS},
            {"case": name, "metric": "first ten in common", "ours": float(np.mean(shared)),
             "peer": "torch", "peer_value": 1.0, "ratio": float(np.mean(shared)), "target": None,
             "met": None},
        ]  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer queries")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--run", type=Path, help="finished run: its student and its teacher")
    parser.add_argument("--which", default="student", help="directory of the run's student")
    parser.add_argument("--collection", type=Path, help="collection with queries of its languages")
    parser.add_argument("--worker", nargs=2, metavar=("NAME", "FOLDER"), help="internal")
    options = parser.parse_args()
    if options.worker:
        worker(options.worker[0], Path(options.worker[1]))
        return
    if (options.run is None) != (options.collection is None):
        parser.error("--run and --collection go together")
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        limit = 20 if options.quick else 200
        collection, asked = None, []
        if options.run is None:
            queries, student = make_student(folder)[:limit], folder / "student"
        else:
            from distill.evaluation.collection_loading import load_collection

            collection = load_collection(options.collection)
            student = options.run / options.which
            asked = [
                (pair, query)
                for pair in collection.pairs
                for query in list(collection.judged_queries(pair))[:limit]
            ]
            queries = [collection.queries[pair][query] for pair, query in asked]
        (folder / "queries.json").write_text(json.dumps(queries))
        (folder / "student.json").write_text(json.dumps(str(student.resolve())))
        write_folder(student, folder)
        rows = speed_rows({contender: run(contender, folder) for contender in CONTENDERS})
        if collection is not None:
            from distill.recipe.files import load_settings
            from distill.recipe.recipe import Recipe

            teacher = load_settings(Recipe, options.run / "config.yaml").teacher
            rows += ranking_rows(folder, teacher, collection, asked)
    print(f"{len(queries)} queries, one at a time, one thread")
    print(f"{'case':8} {'metric':22} {'ours':>10} {'torch':>10} {'ratio':>7}")
    for row in rows:
        print(f"{row['case']:8} {row['metric']:22} {row['ours']:10.4g} {row['peer_value']:10.4g} "
              f"{row['ratio']:7.3f}{'  (missed)' if row['met'] is False else ''}")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
