"""A student between its start and its end."""

from __future__ import annotations

import pytest
import torch

from distill.encoders.directory import load_encoder, save_encoder
from distill.tools.average import main


@pytest.fixture
def student(tiny_world, tmp_path):
    """The teacher, every weight moved."""
    encoder, text = load_encoder(str(tiny_world.teacher))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    save_encoder(tmp_path / "student", encoder, text)
    return tmp_path / "student"


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_every_weight_lies_on_the_line_between(tiny_world, student, tmp_path, share):
    main([str(tiny_world.teacher), str(student), str(tmp_path / "out"), f"--share={share}"])
    start, end, found = (
        load_encoder(str(path))[0].state_dict()
        for path in (tiny_world.teacher, student, tmp_path / "out")
    )
    assert found.keys() == end.keys()
    for name, weight in found.items():
        wanted = (1 - share) * start[name] + share * end[name]
        torch.testing.assert_close(weight, wanted, msg=name)


def test_what_does_not_correspond_is_refused(tiny_world, student, tmp_path, capsys):
    narrow, text = load_encoder(str(tiny_world.backbone), embedding_dimension=8)
    save_encoder(tmp_path / "narrow", narrow, text)
    wider, text = load_encoder(str(student))
    text.tokenizer.add_tokens(["[X] "])
    wider.backbone.resize_token_embeddings(len(text.tokenizer))
    save_encoder(tmp_path / "wider", wider, text)
    output = tmp_path / "out"
    for start, share, message in (
        (tiny_world.backbone, "0.7", "no encoder with a projection"),
        (tmp_path / "nowhere", "0.7", "no encoder with a projection"),
        (tmp_path / "narrow", "0.7", "other weights or another vocabulary"),
        (tmp_path / "wider", "0.7", "other weights or another vocabulary"),
        (tiny_world.teacher, "1.5", "--share 1.5"),
    ):
        with pytest.raises(SystemExit):
            main([str(start), str(student), str(output), "--share", share])
        assert message in capsys.readouterr().err
        assert not output.exists()
    with pytest.raises(SystemExit):
        main([str(tiny_world.teacher), str(student), str(student)])
    assert "not empty" in capsys.readouterr().err
