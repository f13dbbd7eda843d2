"""Run by sentence-transformers' own interpreter: encode and score with MultiVectorEncoder.

Usage: sentence_transformers_program.py TASK.json OUTPUT.json, as `pylate_program`.
"""

import json
import sys
from pathlib import Path

from sentence_transformers import MultiVectorEncoder


def main():
    task = json.loads(Path(sys.argv[1]).read_text())
    model = MultiVectorEncoder(task["directory"], device="cpu")
    queries = model.encode_query(task["queries"])
    documents = model.encode_document(task["documents"])
    answer = {"scores": model.similarity(queries, documents).tolist()}
    if task.get("save"):
        model.save_pretrained(task["save"])
    Path(sys.argv[2]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
