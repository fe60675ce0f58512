"""Results from elsewhere get the table of an experiment; what is wrong with a file is one line."""

import csv
import io
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from shunted_lab import compare
from shunted_lab.config.schema import ConfigError
from shunted_lab.report.elsewhere import read_results, table_of, write_comparison
from shunted_lab.report.finding import finding
from shunted_lab.report.render import blocks, to_csv

PLAIN = """variant,seed,top1
small,0,0.700
small,1,0.712
small,2,0.705
large,0,0.721
large,1,0.730
large,2,0.722
"""

# The runs table of W&B: columns of the run, then configuration and summary, as its export button gives them.
WANDB = """"Name","State","Notes","User","Tags","Created","Runtime","Sweep","lr","seed","Group","val/loss","val/top1"
"bright-sun-1","finished","-","ann","","2026-10-01T10:00:00.000Z","61","","0.1","0","small","0.91","0.700"
"calm-sea-2","finished","-","ann","","2026-10-01T10:02:00.000Z","60","","0.1","1","small","0.92","0.712"
"dry-leaf-3","crashed","-","ann","","2026-10-01T10:04:00.000Z","12","","0.1","1","large","1.70","0.402"
"early-dew-4","finished","-","ann","","2026-10-01T10:05:00.000Z","63","","0.1","0","large","0.88","0.721"
"""

# `mlflow experiments csv -x 1` of mlflow 3
MLFLOW = """run_id,experiment_id,status,artifact_uri,start_time,end_time,metrics.val_top1,params.variant,params.seed,\
params.lr,tags.mlflow.runName,tags.mlflow.user
27a2,1,FINISHED,/r/27a2/artifacts,2026-11-26 21:23:23.286+00:00,2026-11-26 21:23:24+00:00,0.73,large,1,0.1,l-1,ann
62a7,1,FINISHED,/r/62a7/artifacts,2026-11-26 21:23:23.274+00:00,2026-11-26 21:23:24+00:00,0.721,large,0,0.1,l-0,ann
d1e0,1,FINISHED,/r/d1e0/artifacts,2026-11-26 21:23:23.262+00:00,2026-11-26 21:23:24+00:00,0.712,small,1,0.1,s-1,ann
141f,1,RUNNING,/r/141f/artifacts,2026-11-26 21:23:23.238+00:00,,,small,0,0.1,s-0,ann
"""

# The metrics of trackio, which its parquet files have too: a line a step; the run's name tells variant and seed.
TRACKIO = """id,timestamp,run_id,run_name,step,top1
1,2026-11-01T10:00:00,a,small-seed0,0,0.2
2,2026-11-01T10:01:00,a,small-seed0,1,0.700
3,2026-11-01T10:00:00,b,small-seed1,1,0.712
4,2026-11-01T10:00:00,b,small-seed1,0,0.3
5,2026-11-01T10:00:00,c,large-seed0,1,0.721
6,2026-11-01T10:00:00,d,large-seed1,1,
7,2026-11-01T10:00:00,d,large-seed1,2,0.730
8,2026-11-01T10:00:00,d,large-seed1,3,
"""


@pytest.fixture
def read(tmp_path):
    def made(text, **options):
        (tmp_path / "r.csv").write_text(text, encoding="utf-8")
        return read_results(tmp_path / "r.csv", **options)

    return made


def table(found, **options):
    options = {"baseline": None, "direction": "max", "percent": True, "source": "r.csv"} | options
    return table_of(found, **options)


def test_the_table_has_what_scipy_computes(read):
    made, config = table(read(PLAIN))
    small, large = np.array([0.7, 0.712, 0.705]), np.array([0.721, 0.73, 0.722])
    interval = stats.ttest_rel(large, small).confidence_interval(0.95)
    low, high = (f"{100 * end:+.2f}" for end in interval)
    assert blocks(made)[0].head == ("Variant", "top1 (%)", "Δ [95 % CI]")
    assert blocks(made)[0].rows[0] == (
        "small",
        f"{100 * small.mean():.2f} ± {100 * small.std(ddof=1):.2f} (3)",
        "baseline",
    )
    assert blocks(made)[0].rows[1][2] == f"{100 * (large - small).mean():+.2f} [{low}, {high}]"
    assert finding(made, config).startswith("top1: large is better than small by 1.87 points [")
    made, config = table(read(PLAIN), direction="min", baseline="large")
    assert finding(made, config).startswith("top1: small is better than large by 1.87 points [")


def test_plain_numbers_are_shown_as_they_are(read):
    made, _ = table(read(PLAIN.replace("0.7", "307.")), percent=False)
    assert blocks(made)[0].head[1] == "top1" and blocks(made)[0].rows[0][1].startswith("307.")


def test_parameters_and_macs_are_shown_where_the_file_has_them(read):
    lines = PLAIN.splitlines()
    text = "\n".join([lines[0] + ",params,macs", *(line + ",2000000,300000000" for line in lines[1:])])
    made, _ = table(read(text))
    assert blocks(made)[0].head[1:3] == ("Params (M)", "GMACs") and blocks(made)[0].rows[0][1:3] == ("2.00", "0.300")


def test_an_export_of_wandb(read):
    with pytest.raises(ConfigError, match=r"metric: is missing; choices: lr, val/loss, val/top1"):
        read(WANDB)
    found = read(WANDB, metric="val/top1")
    assert found.values == {"small": {0: 0.7, 1: 0.712}, "large": {0: 0.721}}
    made, config = table(found)
    assert not made.complete and blocks(made)[0].rows[1][1] == "72.10 (1 of 2: 1 crashed)"
    assert any(fact.label == "INCOMPLETE" and "large seed 1 crashed" in fact.text for fact in made.facts)
    assert finding(made, config) == "Not all runs are done: nothing is concluded yet."


def test_two_runs_of_one_variant_and_seed_are_refused_also_where_the_export_has_a_column_of_steps(read):
    """W&B writes the last `_step` of each run, if the column is shown: runs are not steps of each other."""
    lines = WANDB.splitlines()
    text = "\n".join([lines[0] + ',"_step"', *(f'{line},"{100 + i}"' for i, line in enumerate(lines[1:]))])
    assert read(text, metric="val/top1").values == read(WANDB, metric="val/top1").values
    again = text.replace('"0.1","1","small"', '"0.1","0","small"')
    with pytest.raises(
        ConfigError, match=r"line 3: variant 'small' with seed 0 is in line 2 already; one run for each"
    ):
        read(again, metric="val/top1")


def test_an_export_of_mlflow(read):
    found = read(MLFLOW)
    assert found.metric == "val_top1" and found.values == {"large": {1: 0.73, 0: 0.721}, "small": {1: 0.712}}
    assert found.open == {"large": {}, "small": {0: "running"}}
    assert read(MLFLOW, metric="val_top1").values == found.values


def test_the_metrics_of_trackio_of_which_the_last_step_with_a_value_counts(read):
    found = read(TRACKIO)
    assert found.values == {"small": {0: 0.7, 1: 0.712}, "large": {0: 0.721, 1: 0.73}} and not any(found.open.values())


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (PLAIN.replace("variant", "v"), {}, r"r\.csv: there is no column 'variant'; variant=COLUMN .*: v, seed, top1"),
        (PLAIN.replace("seed", "s"), {}, r"there is no column 'seed'; seed=COLUMN names it; columns: variant, s, top1"),
        (PLAIN, {"seed": "sed"}, r"seed: 'sed' is not known; did you mean 'seed'\? choices: seed, top1, variant"),
        (PLAIN, {"metric": "top5"}, r"metric: 'top5' is not known; did you mean 'top1'\?"),
        (PLAIN.replace("0.712", "high"), {"metric": "top1"}, r"line 3: 'high' in column 'top1' is not a number"),
        (PLAIN.replace("0.712", "high"), {}, r"there is no column of numbers beside variant and seed"),
        (PLAIN.replace("large,1", "large,0"), {}, r"line 6: variant 'large' with seed 0 is in line 5 already"),
        (
            TRACKIO.replace(",d,large-seed1,2", ",e,large-seed1,2"),
            {},
            r"line 8: variant 'large' with seed 1 is in line 7 already",
        ),
        (
            TRACKIO.replace("small-seed1,0,0.3", "small-seed1,1,0.3"),
            {},
            r"line 5: variant 'small' with seed 1 is in line 4",
        ),
        (PLAIN.replace("small", "large"), {}, r"line 5: variant 'large' with seed 0 is in line 2 already"),
        (PLAIN[: PLAIN.index("large")], {}, r"column 'variant' has only small; at least two variants are compared"),
        (PLAIN.replace("large,1", "large,x"), {}, r"line 6: seed 'x' is not an integer"),
        (PLAIN.replace("large,1", "large,"), {}, r"line 6: no seed: column 'seed' is empty"),
        (
            TRACKIO.replace("large-seed0", "large"),
            {},
            r"line 6: no variant: 'large' in column 'run_name' is",
        ),
        ("variant,seed,top1\n", {}, r"r\.csv: has no line of results"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(read, text, options, message):
    with pytest.raises(ConfigError, match=message):
        read(text, **options)


def test_an_unknown_baseline_names_the_variants(read):
    with pytest.raises(ConfigError, match=r"baseline: 'larg' is not known; did you mean 'large'\?"):
        table(read(PLAIN), baseline="larg")


def test_missing_pairs_are_shown_and_never_dropped_in_silence(read):
    made, _ = table(read(PLAIN.replace("large,1,0.730\n", "")))
    assert blocks(made)[0].rows[1][1].endswith("(2 of 3: 1 missing)") and "(n = 2)" in blocks(made)[0].rows[1][2]
    line = list(csv.DictReader(io.StringIO(to_csv(made))))[1]
    assert (line["n"], line["n_planned"], line["open"], line["n_pairs"]) == ("2", "3", "1 missing", "2")


def test_the_command_prints_and_writes_tables_and_page(tmp_path, capsys):
    (tmp_path / "r.csv").write_text(PLAIN)
    assert compare.main([str(tmp_path / "r.csv"), "percent=true", "baseline=small"]) == 0
    out = capsys.readouterr().out
    assert "+1.87 [" in out and "found: top1: large is better than small" in out
    page = (tmp_path / "r" / "report" / "index.html").read_text(encoding="utf-8")
    assert "<li>large is better than small by 1.87 points" in page and 'id="figure-seeds"' in page
    assert {path.name for path in (tmp_path / "r").iterdir()} == {"table.md", "table.csv", "table.tex", "report"}
    assert compare.main([]) == 1 and "file: is missing" in capsys.readouterr().err
    assert compare.main([str(tmp_path / "none.csv")]) == 1
    assert "none.csv: cannot be read as CSV (No such file or directory)" in capsys.readouterr().err
    (tmp_path / "r.csv").write_text(PLAIN.replace("large,1,0.730\n", ""))
    assert compare.main([str(tmp_path / "r.csv"), f"out={tmp_path}/o"]) == 1 and "INCOMPLETE" in capsys.readouterr().out


def test_the_example_of_the_docs_is_what_the_command_prints(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs" / "howto" / "compare.md").read_text(encoding="utf-8")
    example, words, output = re.findall(r"```(?:csv|text)?\n(.*?)```", page, re.DOTALL)[:3]
    monkeypatch.chdir(tmp_path)
    Path("results.csv").write_text(example)
    assert compare.main(words.split()[3:]) == 0
    assert capsys.readouterr().out == output


def test_ten_thousand_lines(read, tmp_path):
    """Of 1,000 variants: a figure of so many rows would be read by nobody, and the verdict names ten."""
    rng = np.random.default_rng(0)
    lines = [f"v{v},{s},{value}" for v in range(1000) for s, value in enumerate(rng.random(10))]
    found = read("\n".join(["variant,seed,top1", *lines]))
    made, config = table(found)
    assert len(made.rows) == 1000 and finding(made, config).endswith("; 989 more variants are in the table.")
    write_comparison(tmp_path / "o", made, config, found)
    assert (tmp_path / "o" / "report" / "index.html").stat().st_size < 5e6
