"""The manifest of docs/howto/kubernetes.yaml: what Kubernetes accepts, and a worker of this package."""

from pathlib import Path

import pytest
import yaml
from conftest import experiment_of, prepared

from shunted_lab.config.compose import compose_as
from shunted_lab.config.experiment_file import experiment_files
from shunted_lab.study.engines import work_of, worker_command
from shunted_lab.study.engines.ray_task import ENDING
from shunted_lab.study.manifest import STORAGE
from shunted_lab.study.watch import Quiet
from shunted_lab.worker import WorkerConfig

FILE = Path(__file__).parents[2] / "docs" / "howto" / "kubernetes.yaml"
CLAIM, JOB = yaml.safe_load_all(FILE.read_text())
POD = JOB["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


@pytest.mark.parametrize("version", ["1.33", "1.37"])  # backoffLimitPerIndex is stable since 1.33
@pytest.mark.parametrize("document", [CLAIM, JOB], ids=lambda document: document["kind"])
def test_kubernetes_accepts_it(document, version):
    validate = pytest.importorskip("kubernetes_validate")
    assert validate.validate(document, version, strict=True) == version


def test_the_schema_tells_a_misspelt_field():
    validate = pytest.importorskip("kubernetes_validate")
    with pytest.raises(validate.ValidationError):
        validate.validate({**JOB, "spec": {**JOB["spec"], "paralelism": 4}}, "1.33", strict=True)


def test_a_pod_is_a_worker(tmp_path):
    experiment = experiment_of(tmp_path)
    home, plan, left, _ = prepared(experiment)
    command = worker_command(work_of(home, plan, experiment.config.launch, left, [], Quiet()))
    assert CONTAINER["command"][:3] == ["python", *command[1:3]]
    study, *options = [word.replace("$(JOB_COMPLETION_INDEX)", "3") for word in CONTAINER["command"][3:]]
    config = compose_as(WorkerConfig, [f"study={study}", *options])
    assert config.index == 3 and config.plan is None, "an index of its own, and the latest plan"
    (mount,) = (mount for mount in CONTAINER["volumeMounts"] if mount["name"] == "runs")
    assert Path(config.study).parent == Path(mount["mountPath"])
    assert Path(config.study).name in experiment_files()


def test_every_worker_has_the_database_and_the_folder():
    assert [variable["name"] for variable in CONTAINER["env"]] == [STORAGE]
    claims = [v["persistentVolumeClaim"]["claimName"] for v in POD["volumes"] if "persistentVolumeClaim" in v]
    assert claims == [CLAIM["metadata"]["name"]] and CLAIM["spec"]["accessModes"] == ["ReadWriteMany"]
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == {volume["name"] for volume in POD["volumes"]}


def test_the_rules_that_the_schema_does_not_know():
    spec = JOB["spec"]
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"]
    assert spec["maxFailedIndexes"] <= spec["completions"]
    assert POD["restartPolicy"] == "Never", "podFailurePolicy and backoffLimitPerIndex need it"
    assert POD["terminationGracePeriodSeconds"] >= ENDING


def test_a_failed_run_fails_the_job():
    (rule,) = (rule for rule in JOB["spec"]["podFailurePolicy"]["rules"] if rule["action"] == "FailIndex")
    codes = {"containerName": CONTAINER["name"], "operator": "In", "values": [1]}
    assert rule["onExitCodes"] == codes and "backoffLimitPerIndex" in JOB["spec"]
