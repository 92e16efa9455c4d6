"""The rows of the paper's tables: each a valid configuration, and alike in all but what it is about."""

import pytest

from grm.ablation.plan import BUDGETS, make_plan, settle
from grm.ablation.tables import ACCURACY, SPEED, TABLES, choose_rows, with_figures
from grm.config import load_config
from grm.errors import ConfigError, DataError


def planned(table, budget, folder, **options):
    model = load_config(BUDGETS[budget].preset).model
    return make_plan(TABLES[table](model), BUDGETS[budget], folder, **options)


def flat(section, prefix=""):
    if not isinstance(section, dict):
        return {prefix: section}
    return {key: value for name in section for key, value in flat(section[name], f"{prefix}.{name}").items()}


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("table", TABLES)
def test_rows_differ_from_the_reference_in_what_they_say_and_nothing_else(tmp_path, table, budget):
    plan = planned(table, budget, tmp_path)
    reference, *_ = plan.of_row(plan.table.row(plan.table.reference))
    before = flat(reference.config.model_dump(mode="json"))
    for row in plan.table.rows:
        run, *others = plan.of_row(row)
        now = flat(run.config.model_dump(mode="json"))
        said = {override.partition("=")[0] for override in row.overrides}
        changed = {key.lstrip(".") for key in {*before, *now} if before.get(key) != now.get(key)}
        assert changed <= said
        assert changed or row.name == plan.table.reference
        assert [other.config.training.seed for other in (run, *others)] == list(range(BUDGETS[budget].seeds))
    assert {row for order in plan.table.orders for row in order[:2]} <= {row.name for row in plan.table.rows}


def test_the_small_budget_is_shared_by_all_runs_and_the_full_one_is_the_recipe(tmp_path):
    small = planned("table4", "small", tmp_path)
    pairs = sum(run.config.data.samples_per_epoch * run.config.training.epochs for run in small.runs)
    assert len(small.runs) == 10 and pairs == BUDGETS["small"].pairs
    assert all(run.config.training.new_division and run.config.training.loss.entropy == 0 for run in small.runs)
    full = planned("table4", "full", tmp_path, overrides=["data.root=/data"])
    recipe = load_config("grm_b256_got", ["data.root=/data", "training.evaluate_every=0"])
    assert full.of_row(full.table.row("sa"))[0].config == recipe
    assert str(full.root) == "/data/got10k"
    fewer = planned("table4", "full", tmp_path, pairs=640)
    assert fewer.runs[0].config.data.samples_per_epoch == 640 and fewer.runs[0].config.training.epochs == 1


def test_some_rows_keep_the_reference():
    table = TABLES["table4"](load_config("grm_tiny").model)
    assert [row.name for row in choose_rows(table, ["one_stream"]).rows] == ["one_stream", "sa"]
    assert {order[:2] for order in choose_rows(table, ["one_stream"]).orders} == {
        ("sa", "one_stream"),
        ("one_stream", "sa"),
    }
    assert choose_rows(table, []) == table
    with pytest.raises(ConfigError, match="--row: expected two_stream, one_stream, ts, tsa, sa, got three"):
        choose_rows(table, ["three"])


def test_figures_of_the_paper_make_orders(tmp_path):
    table = TABLES["table5"](load_config("grm_tiny").model)
    path = tmp_path / "paper.yaml"
    path.write_text("average: {accuracy: 72.5}\nall_layers: {accuracy: 73.0, frames/s: 44}\n")
    told = with_figures(table, path)
    assert told.row("average").paper == {ACCURACY: 72.5}
    assert told.row("grm").paper == {ACCURACY: 73.4, SPEED: 45}
    assert {order[:3] for order in told.orders} == {
        ("grm", "average", "accuracy"), ("grm", "all_layers", "accuracy"), ("all_layers", "average", "accuracy"),
        ("grm", "all_layers", "speed"),
    }  # fmt: skip
    for wrong in ("grmm: {accuracy: 1}", "grm: 3", "grm: {AUC: 3}", "grm: {accuracy: true}", "[1]", "a: ["):
        path.write_text(wrong)
        with pytest.raises(ConfigError, match=r"paper.yaml: (expected lines|cannot be read)"):
            with_figures(table, path)


def test_a_folder_is_of_one_ablation(tmp_path):
    plan = planned("table5", "small", tmp_path, pairs=64)
    settle(plan, write=True)
    settle(planned("table5", "small", tmp_path, pairs=64), write=True)
    with pytest.raises(DataError, match=r"another ablation: all_layers-0, all_layers-1, average-0,.* differ"):
        settle(planned("table5", "small", tmp_path, pairs=96), write=True)
    with pytest.raises(DataError, match="another ablation: the benchmark differ"):
        settle(plan._replace(limit=3), write=True)


def test_a_benchmark_without_its_data_set_or_truth_is_refused(tmp_path):
    table, budget = TABLES["table4"](load_config("grm_tiny").model), BUDGETS["small"]
    with pytest.raises(ConfigError, match="lasot: give --root"):
        make_plan(table, budget._replace(benchmark="lasot"), tmp_path)
    with pytest.raises(ConfigError, match="the truth of got10k-test is not public"):
        make_plan(table, budget._replace(benchmark="got10k-test"), tmp_path)
