"""The training benchmark from end to end on a tiny model: what it measures, and that it refuses to time wrong forms."""

import json

import pytest
import torch

from benchmarks import tables, training
from benchmarks.compare import WrongResultError
from benchmarks.training import Case
from grm.model import encoder

MODEL = """
model:
  template: {{size: 32, factor: 2}}
  search: {{size: {search}, factor: 4}}
  encoder: {{width: 32, depth: 3, heads: 2}}
  division: {{hidden: [12, 6]}}
  head: {{channels: 16}}
"""


@pytest.fixture
def case(tmp_path):
    """Of a tiny model whose search region has this side in pixels."""

    def make(search=64, precision="float32"):
        path = tmp_path / f"search_{search}.yaml"
        path.write_text(MODEL.format(search=search))
        return Case(str(path), 2, precision)

    return make


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_record_has_every_form(case, precision):
    record = json.loads(json.dumps({"measurements": training.measure(case(precision=precision), budget_s=0.0)}))
    fused, masked, separate = record["measurements"]
    assert [m["form"] for m in (fused, masked, separate)] == ["fused", "masked", "separate"]
    for m in (fused, masked, separate):
        assert 0 < m["seconds"]["attention"] < m["seconds"]["step"] and m["rounds"] >= 2
        assert m["tokens"] == 20 and m["layers"] == 2
    (table,) = tables.training_tables(record)
    (row,) = table.rows
    ratios = [m["seconds"]["step"] / fused["seconds"]["step"] for m in (masked, separate)]
    assert table.header[4] == "step (masked, separate)" and row[4].endswith(f"({ratios[0]:.2f}x, {ratios[1]:.2f}x)")


def test_attention_holds_no_matrix_of_scores(case):
    """Four times the tokens: the fused form's memory grows with them, the masked form's with their square."""

    def rises(search):
        rows = training.measure(case(search=search), budget_s=0.0)[:2]
        return [row["bytes"]["attention_rise"] for row in rows], rows[0]["tokens"], rows[0]["matrix"]

    (fused, masked), tokens, _ = rises(256)
    (fused_long, masked_long), tokens_long, matrix = rises(512)
    growth = tokens_long / tokens
    assert fused_long < 1.2 * growth * fused and fused_long < matrix / 4
    assert masked_long > 0.8 * growth**2 * masked and masked_long > 2 * matrix


@pytest.mark.parametrize(
    ("fault", "what"), [("mask", r"(loss|gradient of \.division\.)"), ("policy gradient", r"gradient of \.division\.")]
)
def test_a_wrong_form_is_not_timed(case, monkeypatch, fault, what):
    attend = encoder.category_attention_packed

    def wrong(qkv, categories, policy=None, **options):
        if policy is None:  # a layer that does not divide
            return attend(qkv, categories, **options)
        if fault == "mask":
            return attend(qkv, torch.full_like(categories, 2), **options) + 0 * policy.sum()
        return attend(qkv, categories, **options)

    monkeypatch.setattr(encoder, "category_attention_packed", wrong)
    with pytest.raises(WrongResultError, match=f"fused: {what} is"):
        training.measure(case(), budget_s=0.0)


def test_separate_attention_is_compared_too(case, monkeypatch):
    attend = training.separate_attention
    monkeypatch.setattr(training, "separate_attention", lambda q, k, v, categories: attend(q, k, v.flip(2), categories))
    with pytest.raises(WrongResultError, match=r"separate: (loss|gradient of \.qkv\.) is"):
        training.measure(case(), budget_s=0.0)
