"""What can be checked of the manifests and units in docs/deployment.md without a cluster and without booting."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli.serving.serve import GRACE
from pipeline.http.routes.health import PATIENCE

DEPLOYMENT = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text()


def manifests() -> dict[str, dict[str, Any]]:
    (text,) = re.findall(r"```yaml\n(.*?)```", DEPLOYMENT, re.DOTALL)
    kinds = {"Service": "-service"}  # it has the name of what it leads to
    return {each["metadata"]["name"] + kinds.get(each["kind"], ""): each for each in yaml.safe_load_all(text)}


def test_the_manifests_upgrade_the_ledger_run_workers_that_may_finish_and_one_beat() -> None:
    found = manifests()
    assert {name: each["kind"] for name, each in found.items()} == {
        "shop-ledger-1": "Job", "shop-worker": "Deployment", "shop-beat": "Deployment", "shop-serve": "Deployment",
        "shop-serve-service": "Service",
    }  # fmt: skip
    pods = {name: each["spec"]["template"]["spec"] for name, each in found.items() if each["kind"] != "Service"}
    for pod in pods.values():
        (container,) = pod["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "shop"}}]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["runAsNonRoot"]
        assert {mount["name"] for mount in container.get("volumeMounts", [])} == {
            v["name"] for v in pod.get("volumes", [])
        }
    for name in ("shop-worker", "shop-beat", "shop-serve"):
        spec = found[name]["spec"]
        assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
        (container,) = pods[name]["containers"]
        assert "/var/lib/pipeline" in {mount["mountPath"] for mount in container["volumeMounts"]}
    (worker,) = pods["shop-worker"]["containers"]
    (soft,) = re.findall(r"worker.soft_shutdown_timeout=(\d+)", " ".join(worker["command"]))
    assert {"name": "REMAP_SIGTERM", "value": "SIGQUIT"} in worker["env"]
    assert pods["shop-worker"]["terminationGracePeriodSeconds"] > int(soft)
    assert (found["shop-beat"]["spec"]["replicas"], found["shop-beat"]["spec"]["strategy"]) == (1, {"type": "Recreate"})
    assert pods["shop-ledger-1"]["containers"][0]["command"] == ["pipeline", "ledger", "upgrade"]


def test_the_manifests_serve_over_http_where_pods_that_are_ready_are_asked() -> None:
    found = manifests()
    pod, service = found["shop-serve"]["spec"]["template"]["spec"], found["shop-serve-service"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["pipeline", "serve", "--host", "0.0.0.0"]
    (port,) = container["ports"]
    assert [one["targetPort"] for one in service["ports"]] == [port["name"]]
    assert service["selector"] == found["shop-serve"]["spec"]["selector"]["matchLabels"]
    paths = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("readiness", "liveness")}
    assert paths == {
        "readiness": {"path": "/readyz", "port": port["name"]}, "liveness": {"path": "/healthz", "port": port["name"]}
    }  # fmt: skip
    assert container["readinessProbe"]["timeoutSeconds"] > PATIENCE, "it says so itself before"
    _, sleep = container["lifecycle"]["preStop"]["exec"]["command"]
    assert pod["terminationGracePeriodSeconds"] > int(sleep) + GRACE


def units() -> dict[str, str]:
    """Return the units of systemd by name."""
    return dict(re.findall(r"`/etc/systemd/system/([\w.-]+)`[^`]*```ini\n(.*?)```", DEPLOYMENT, re.DOTALL))


def test_the_units_run_workers_beat_and_serve_which_come_back_and_have_time_to_end() -> None:
    found = {}
    for name, text in units().items():
        found[name] = ConfigParser(interpolation=None)
        found[name].optionxform = str  # type: ignore[assignment,method-assign]  # systemd's names have capitals
        found[name].read_string(text)
    started = {name: unit["Service"]["ExecStart"].split()[:4] for name, unit in found.items()}
    assert started == {
        "shop-worker.service": ["/srv/shop/.venv/bin/celery", "-A", "shop", "worker"],
        "shop-beat.service": ["/srv/shop/.venv/bin/celery", "-A", "shop", "beat"],
        "shop-serve.service": ["/srv/shop/.venv/bin/pipeline", "-A", "shop", "serve"],
    }
    for unit in found.values():
        assert unit["Service"]["User"] != "root"
        assert unit["Service"]["NoNewPrivileges"] == "yes"
        assert unit["Service"]["Restart"] == "on-failure"
        assert unit["Service"]["EnvironmentFile"] == "/etc/shop.env"
    worker = found["shop-worker.service"]["Service"]
    assert worker["ExecStartPre"].endswith("pipeline -A shop ledger upgrade")
    assert int(worker["TimeoutStopSec"]) > int(worker["ExecStart"].rpartition("soft_shutdown_timeout=")[2])
    assert int(found["shop-serve.service"]["Service"]["TimeoutStopSec"]) > GRACE
    for name in ("shop-beat.service", "shop-serve.service"):
        assert "shop-worker.service" in found[name]["Unit"]["After"], "the worker's unit makes the tables"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("name", units())
def test_the_units_are_ones_that_systemd_takes(tmp_path: Path, name: str) -> None:
    unit = tmp_path / name
    programs = units()[name].replace("/srv/shop/.venv/bin", str(Path(sys.executable).parent))
    unit.write_text(programs)
    assert verified(unit) == ""
    unit.write_text(programs.replace("KillMode=", "KilMode="))  # it does look
    assert "KilMode" in verified(unit)


def verified(unit: Path) -> str:
    """Return what systemd has to say about a unit."""
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return "\n".join(line for line in (said.stdout + said.stderr).splitlines() if unit.name in line)
