"""The manifests of Kubernetes: what they promise holds of the server, and of each other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.manifests import (
    DEPLOY,
    KUBERNETES,
    Document,
    container,
    documents,
    kustomization,
    kustomizations,
    least_stop_s,
    one,
    probes,
    settings,
    variables,
)
from tests.documents import ROOT

BASE = documents(KUBERNETES / "base")
SERVER = one(BASE, "StatefulSet")
POD = SERVER["spec"]["template"]["spec"]
FOLDERS = kustomizations()
COMPONENTS = KUBERNETES / "components"
TLS = COMPONENTS / "tls"
OVERLAYS = sorted((KUBERNETES / "overlays").iterdir())
SESSIONS, STATE_BYTES = 100_000, 2048  # what the requests are made for
SERVER_BYTES = 170 * 2**20  # without sessions; see docs/operations.md, "Sizing"
UNITS = {"Mi": 2**20, "Gi": 2**30}


def size(text: str) -> int:
    return int(text[:-2]) * UNITS[text[-2:]]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_folder_names_all_of_its_files(folder: Path) -> None:
    named = kustomization(folder)
    patched = [each["path"] for each in named.get("patches", ()) if "path" in each]
    local = {name for name in [*named.get("resources", ()), *patched] if "/" not in name}
    assert local == {file.name for file in folder.glob("*.yaml")} - {"kustomization.yaml"}
    for other in [*named.get("resources", ()), *named.get("components", ())]:
        assert (folder / other).exists(), other


def test_a_model_that_is_tried_ends_before_the_container_does() -> None:
    for folder, pod in ((None, POD), (COMPONENTS / "gpu", None)):
        own = {} if folder is None else variables(folder)
        spec = pod or one(documents(COMPONENTS / "gpu"), "StatefulSet")["spec"]["template"]["spec"]
        (server,) = spec["containers"]
        most = size(server["resources"]["limits"]["memory"])
        found = settings(variables(KUBERNETES / "base"), own)
        assert found.load_memory + 4 * SERVER_BYTES <= most


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_setting_is_one(folder: Path) -> None:
    # Whatever is none, or has no such value, is refused.
    below = variables(TLS) if folder.name == "mutual-tls" else {}  # which it goes with
    assert settings(variables(KUBERNETES / "base"), below, variables(folder)).host == "0.0.0.0"


def test_one_server_has_a_store_on_the_volume_of_its_own() -> None:
    (claim,) = SERVER["spec"]["volumeClaimTemplates"]
    mounts = {each["name"]: each["mountPath"] for each in container(SERVER)["volumeMounts"]}
    store = settings(variables(KUBERNETES / "base")).store
    # Not the volume itself: that is root's, and the server wants to be alone in its folder.
    assert store.startswith(f"lmdb:{mounts[claim['metadata']['name']]}/")
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert SERVER["spec"]["replicas"] == 1
    disk = 2 * SESSIONS * (STATE_BYTES + 8 * 2**10) + settings().journal_bytes
    assert size(claim["spec"]["resources"]["requests"]["storage"]) > disk


def test_ports_and_probes_are_those_of_the_server() -> None:
    chosen = settings(variables(KUBERNETES / "base"))
    ports = {each["name"]: each["containerPort"] for each in container(SERVER)["ports"]}
    assert ports == {"grpc": chosen.port, "metrics": chosen.metrics_port}
    found = probes(SERVER)
    assert {name: (each["port"], each["path"]) for name, each in found.items()} == {
        "startupProbe": ("metrics", "/readyz"),
        "readinessProbe": ("metrics", "/readyz"),
        "livenessProbe": ("metrics", "/livez"),
    }
    pages = (ROOT / "service" / "http" / "pages.py").read_text("utf-8")
    assert all(f'"{each["path"]}": ' in pages for each in found.values())
    service = one(BASE, "Service")["spec"]
    assert {each["name"]: each["port"] for each in service["ports"]} == ports
    assert {each["targetPort"] for each in service["ports"]} == set(ports)
    policy = one(BASE, "NetworkPolicy")["spec"]
    assert [each["ports"] for each in policy["ingress"]] == [[{"port": name}] for name in ports]


def test_under_tls_every_probe_is() -> None:
    patched = probes(one(documents(TLS / "statefulset.yaml"), "StatefulSet"))
    assert patched == {name: {"scheme": "HTTPS"} for name in probes(SERVER)}


def test_a_server_is_not_killed_while_it_ends() -> None:
    chosen = settings(variables(KUBERNETES / "base"))
    pre_stop = container(SERVER)["lifecycle"]["preStop"]
    assert set(pre_stop) == {"sleep"}  # and no command: there need be no shell
    assert POD["terminationGracePeriodSeconds"] > pre_stop["sleep"]["seconds"] + least_stop_s(
        chosen
    )


def test_readiness_fails_before_the_port_is_closed() -> None:
    chosen = settings(variables(KUBERNETES / "base"))
    assert 0 < chosen.drain_delay_s < chosen.drain_timeout_s


def test_a_start_may_take_as_long_as_the_store_may() -> None:
    startup = container(SERVER)["startupProbe"]
    longest_s = startup["periodSeconds"] * startup["failureThreshold"]
    chosen = settings()
    assert longest_s > chosen.load_timeout_s + chosen.recovery_s


def test_the_pod_may_do_nothing() -> None:
    assert POD["automountServiceAccountToken"] is False
    assert one(BASE, "ServiceAccount")["automountServiceAccountToken"] is False
    assert POD["enableServiceLinks"] is False
    assert (
        POD["securityContext"].items()
        >= {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        }.items()
    )
    assert container(SERVER)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    labels = one(BASE, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(POD)
    assert not any("hostPath" in each for each in POD["volumes"])


def test_everything_is_for_the_same_pods() -> None:
    labels = SERVER["spec"]["template"]["metadata"]["labels"]
    assert SERVER["spec"]["selector"]["matchLabels"] == labels
    assert one(BASE, "Service")["spec"]["selector"] == labels
    assert one(BASE, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    assert one(BASE, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels


def test_the_server_calls_nobody_and_strangers_do_not_call_it() -> None:
    policy = one(BASE, "NetworkPolicy")["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert policy["egress"] == []
    sources = [source for each in policy["ingress"] for source in each["from"]]
    assert all(source and all(s["matchLabels"] for s in source.values()) for source in sources)


def test_memory_is_for_the_sessions_that_it_says() -> None:
    resources = container(SERVER)["resources"]
    assert resources["requests"]["memory"] == resources["limits"]["memory"]
    chosen = settings()
    wanted = SERVER_BYTES + 1.16 * SESSIONS * STATE_BYTES
    wanted += chosen.buffer_memory + chosen.history_memory + chosen.max_undurable_bytes
    assert size(resources["limits"]["memory"]) > wanted


def mounted(folder: Path) -> set[str]:
    """The files that a patch of the server mounts."""
    server = one(documents(folder / "statefulset.yaml"), "StatefulSet")
    places = {each["name"]: each for each in container(server)["volumeMounts"]}
    assert all(each["readOnly"] and "subPath" not in each for each in places.values())
    found = set()
    for volume in server["spec"]["template"]["spec"]["volumes"]:
        at = places[volume["name"]]["mountPath"]
        if "projected" in volume:
            items = [i for each in volume["projected"]["sources"] for i in each["secret"]["items"]]
            found |= {f"{at}/{item['path']}" for item in items}
        else:
            found.add(f"{at}/ca.crt")
    return found


@pytest.mark.parametrize("name", ["tls", "mutual-tls"])
def test_the_files_that_settings_name_are_mounted(name: str) -> None:
    files = {value for value in variables(COMPONENTS / name).values() if value.startswith("/")}
    assert files == mounted(COMPONENTS / name)
    assert files


def test_no_secret_is_in_a_manifest() -> None:
    for file in DEPLOY.rglob("*.y*ml"):
        text = file.read_text("utf-8")
        assert not re.search(r"kind: Secret\b|secretGenerator|stringData|BEGIN [A-Z ]+", text), file


# ---- built ----


def build(folder: Path) -> list[Document]:
    if shutil.which("kubectl"):
        command = ["kubectl", "kustomize"]
    elif shutil.which("kustomize"):
        command = ["kustomize", "build"]
    else:
        pytest.skip("there is neither kubectl nor kustomize here")
    done = subprocess.run([*command, folder], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda folder: folder.name)
def test_an_overlay_asks_for_tls_and_tokens(folder: Path) -> None:
    found = build(folder)
    server = one(found, "StatefulSet")
    assert {each["scheme"] for each in probes(server).values()} == {"HTTPS"}
    assert {each["path"] for each in probes(server).values()} == {"/livez", "/readyz"}
    (source,) = container(server)["envFrom"]
    given = one(found, "ConfigMap")
    assert source["configMapRef"]["name"] == given["metadata"]["name"]
    own = variables(COMPONENTS / "gpu") if folder.name == "gpu" else {}
    wanted = variables(KUBERNETES / "base") | variables(TLS) | own
    assert given["data"].items() >= wanted.items()
    assert given["data"]["CELLAR_REQUIRE_AUTH"] == "on"
    assert {each["name"] for each in container(server)["volumeMounts"]} >= {"secrets", "store"}
    assert "appProtocol" not in one(found, "Service")["spec"]["ports"][0]
    # A patch adds to what makes the pod harmless, and takes nothing from it.
    assert container(server)["securityContext"] == container(SERVER)["securityContext"]
    assert server["spec"]["template"]["spec"]["securityContext"] == POD["securityContext"]


def test_metrics_are_asked_for_with_a_token_of_a_secret(tmp_path: Path) -> None:
    paths = [KUBERNETES / "overlays" / "tls", COMPONENTS / "service-monitor"]
    overlay, monitor = (os.path.relpath(path, tmp_path) for path in paths)
    (tmp_path / "kustomization.yaml").write_text(
        f"resources: [{overlay}]\ncomponents: [{monitor}]\n", "utf-8"
    )
    found = build(tmp_path)
    (endpoint,) = one(found, "ServiceMonitor")["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["scheme"]) == ("metrics", "https")
    assert set(endpoint["authorization"]["credentials"]) == {"name", "key"}
    assert one(found, "ServiceMonitor")["metadata"]["namespace"] == "cellar"
