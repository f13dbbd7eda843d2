"""Run by PyLate's own interpreter: encode, score, index with PLAID, retrieve.

Usage: pylate_program.py TASK.json OUTPUT.json. TASK has directory, teacher, queries, documents,
and index (a folder, or null for none).
"""

import json
import sys
from pathlib import Path

from pylate import models, scores


def plaid(index_folder, dimension):
    """A PLAID index by fast-plaid where it loads, else by Stanford's code that PyLate carries."""
    from pylate import indexes

    try:
        return indexes.PLAID(
            index_folder=index_folder,
            index_name="documents",
            override=True,
            show_progress=False,
            device="cpu",
        )
    except ImportError:
        return indexes.PLAID(
            index_folder=index_folder,
            index_name="documents",
            override=True,
            use_fast=False,
            embedding_size=dimension,
        )


def main():
    task = json.loads(Path(sys.argv[1]).read_text())
    model = models.ColBERT(task["directory"], device="cpu")
    queries = model.encode(task["queries"], is_query=True, show_progress_bar=False)
    documents = model.encode(task["documents"], is_query=False, show_progress_bar=False)
    answer = {
        "scores": [
            [float(scores.colbert_scores(q[None], d[None])[0, 0]) for d in documents]
            for q in queries
        ]
    }
    if task["index"]:
        from pylate import retrieve

        teacher = models.ColBERT(task["teacher"], device="cpu")
        encoded = teacher.encode(task["documents"], is_query=False, show_progress_bar=False)
        index = plaid(task["index"], encoded[0].shape[1])
        names = [str(number) for number in range(len(encoded))]
        index.add_documents(documents_ids=names, documents_embeddings=encoded)
        found = retrieve.ColBERT(index=index).retrieve(queries_embeddings=queries, k=3)
        answer["top"] = [[hit["id"] for hit in hits] for hits in found]
    Path(sys.argv[2]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
