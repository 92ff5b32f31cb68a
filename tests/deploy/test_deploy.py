"""Files for operators: they parse, say what they must, and fit each other. No engine runs them here.

What is not checked: the Dockerfile is not built, and neither hadolint nor kubeconform (schemas of Kubernetes) is used.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from torchveil.cli import COMMANDS
from torchveil.network.config import read_cluster, read_role
from torchveil.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
#: role: (kind, command)
ROLES = {"alice": ("party", "worker"), "bob": ("party", "worker"), "james": ("provider", "provider")}
PORT, METRICS = 7001, 9464
USER = 10001
IMAGE = f"torchveil:{VERSION}"


def text(name: str) -> str:
    return (DEPLOY / name).read_text()


def documents(name: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text(name)) if document is not None]


KUBERNETES = {
    (document["kind"], document["metadata"]["name"]): document
    for file in sorted(DEPLOY.glob("kubernetes/*.yaml"))
    for document in documents(f"kubernetes/{file.name}")
}


# --- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_roles_are_configured_alike_everywhere(role: str, tmp_path: Path) -> None:
    shutil.copytree(DEPLOY / "config", tmp_path, dirs_exist_ok=True)
    (tmp_path / "ca.pem").write_text("any")
    config = read_role(tmp_path / f"{role}.toml")
    kind, _ = ROLES[role]
    assert (config.role.kind, config.role.name) == (kind, role)
    assert (config.listen, config.metrics) == (f"0.0.0.0:{PORT}", f"0.0.0.0:{METRICS}")
    assert str(config.state) == f"/var/lib/torchveil/{role}"
    assert (config.certificate.name, config.key.name) == (f"{kind}-{role}.pem", f"{kind}-{role}.key")


def test_the_cluster_names_the_roles_at_their_services(tmp_path: Path) -> None:
    shutil.copytree(DEPLOY / "config", tmp_path, dirs_exist_ok=True)
    (tmp_path / "ca.pem").write_text("any")
    addresses = read_cluster(tmp_path / "cluster.toml").addresses
    assert {(role.kind, role.name): address for role, address in addresses.items()} == {
        (kind, role): f"{role}:{PORT}" for role, (kind, _) in ROLES.items()
    }


def test_no_key_and_no_certificate_lies_in_the_repository() -> None:
    for file in DEPLOY.rglob("*"):
        assert file.suffix not in (".pem", ".key")
        assert file.is_dir() or "PRIVATE KEY" not in file.read_text()


# --- image ------------------------------------------------------------------------------------------------------------


def dockerfile() -> list[tuple[str, str]]:
    joined = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text("Dockerfile"), flags=re.M))
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()]


def test_the_image_runs_as_nobody_special_and_starts_the_command() -> None:
    lines = dockerfile()
    last = max(k for k, (word, _) in enumerate(lines) if word == "FROM")
    final = dict(lines[last:])
    assert final["USER"] == f"{USER}:{USER}" and final["ENTRYPOINT"] == '["torchveil"]'
    assert set(final["EXPOSE"].split()) == {str(PORT), str(METRICS)}
    assert "slim" in final["FROM"] and not final["FROM"].endswith(":latest")
    words = [word for word, _ in lines]
    assert words.index("USER") < words.index("ENTRYPOINT") and "ADD" not in words


def test_what_the_image_copies_exists_and_is_let_through() -> None:
    ignored = text("Dockerfile.dockerignore").splitlines()
    assert next(line for line in ignored if line and line[0] not in "#!") == "**"
    let_through = {line[1:] for line in ignored if line.startswith("!")}
    copied = set()
    for word, arguments in dockerfile():
        if word == "COPY" and "--from" not in arguments:
            copied |= set(arguments.split()[:-1])
    assert copied == let_through
    for path in copied:
        assert (ROOT / path).exists(), path
    assert {"**/*.key", "**/*.pem"} <= set(ignored)
    # what pyproject.toml puts into the wheel has to be there when it is built
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(wheel["force-include"]) <= copied


# --- compose ----------------------------------------------------------------------------------------------------------

COMPOSE = documents("compose.yaml")[0]


def test_compose_has_the_three_roles_hardened() -> None:
    assert set(COMPOSE["services"]) == {*ROLES, "controller"}
    for name, (_, command) in ROLES.items():
        service = COMPOSE["services"][name]
        assert "profiles" not in service
        assert service["command"] == [command, "--config", f"/etc/torchveil/{name}.toml"] and command in COMMANDS
        assert service["image"] == IMAGE and service["user"] == f"{USER}:{USER}"
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["ulimits"]["core"] == 0 and service["mem_limit"] == service["memswap_limit"]
        assert "privileged" not in service and "ports" not in service
        assert service["hostname"] == name
        assert service["healthcheck"]["test"] == [
            *("CMD", "torchveil", "status", "--role", f"/etc/torchveil/{name}.toml", "--probe")
        ]
        targets = {Path(entry["target"]).name for entry in [*service["configs"], *service["secrets"]]}
        files = tomllib.loads(text(f"config/{name}.toml"))
        assert targets == {"cluster.toml", "ca.pem", f"{name}.toml", files["certificate"], files["key"]}
        assert [entry["source"] for entry in service["secrets"]] == [f"{name}-key"], "a role gets its own key only"


def test_a_controller_is_in_the_network_of_the_roles() -> None:
    """Nothing is published, so this is the way in; the files lie as ``connect`` and the commands look for them."""
    role, service = COMPOSE["services"]["alice"], COMPOSE["services"]["controller"]
    alike = ("image", "user", "read_only", "cap_drop", "security_opt", "ulimits", "mem_limit", "networks")
    assert {key: service[key] for key in alike} == {key: role[key] for key in alike}
    assert service["profiles"] == ["controller"], "up does not start it"
    assert service["command"][0] in COMMANDS and "ports" not in service and "volumes" not in service
    files = [entry["target"] for entry in [*service["configs"], *service["secrets"]]]
    names = ("cluster.toml", "ca.pem", "controller-carol.pem", "controller-carol.key")
    assert sorted(files) == sorted(f"{service['working_dir']}/{name}" for name in names)
    assert [entry["source"] for entry in service["secrets"]] == ["controller-key"], "its own key only"


def test_compose_refers_to_what_it_defines() -> None:
    used: dict[str, set[str]] = {"configs": set(), "secrets": set(), "volumes": set(), "networks": set()}
    for service in COMPOSE["services"].values():
        used["configs"] |= {entry["source"] for entry in service["configs"]}
        used["secrets"] |= {entry["source"] for entry in service["secrets"]}
        used["volumes"] |= {entry.split(":")[0] for entry in service.get("volumes", ())}
        used["networks"] |= set(service["networks"])
    for kind, names in used.items():
        assert names == set(COMPOSE[kind]), kind
    assert len(used["volumes"]) == len(ROLES), "every role has a state of its own"
    for entry in [*COMPOSE["configs"].values(), *COMPOSE["secrets"].values()]:
        assert entry["file"].startswith("certs/") or (DEPLOY / entry["file"]).is_file()
    build = COMPOSE["x-role"]["build"]
    assert (DEPLOY / build["context"]).resolve() == ROOT and (ROOT / build["dockerfile"]).is_file()


# --- systemd ----------------------------------------------------------------------------------------------------------

UNITS = {"torchveil-worker@.service": "worker", "torchveil-provider@.service": "provider"}


@pytest.mark.parametrize("unit", UNITS)
def test_units_start_the_command_and_give_up_privileges(unit: str) -> None:
    lines = [line for line in text(f"systemd/{unit}").splitlines() if "=" in line and not line.startswith("#")]
    settings = dict(line.split("=", 1) for line in lines)
    command = UNITS[unit]
    assert settings["ExecStart"] == f"/opt/torchveil/bin/torchveil {command} --config /etc/torchveil/%i.toml"
    assert command in COMMANDS
    wanted = {
        "User": "torchveil",
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateTmp": "yes",
        "StateDirectory": "torchveil/%i",
        "StateDirectoryMode": "0700",
        "UMask": "0077",
        "CapabilityBoundingSet": "",
        "LimitCORE": "0",
        "MemorySwapMax": "0",
        "Restart": "on-failure",
        "RestartPreventExitStatus": "2",
    }
    assert {name: settings.get(name) for name in wanted} == wanted
    assert "MemoryMax" in settings
    for role, (_, its_command) in ROLES.items():
        if its_command == command:
            state = tomllib.loads(text(f"config/{role}.toml"))["state"]
            assert state == f"/var/lib/{settings['StateDirectory'].replace('%i', role)}"


def test_the_two_units_differ_in_the_command_only() -> None:
    worker, provider = (
        re.sub(r"^#.*\n", "", text(f"systemd/{unit}"), flags=re.M).replace(command, "ROLE")
        for unit, command in UNITS.items()
    )
    assert worker == provider


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_takes_the_units(unit: str, tmp_path: Path) -> None:
    file = tmp_path / unit.replace("@", "@alice")
    file.write_text(text(f"systemd/{unit}").replace("/opt/torchveil/bin/torchveil", "/bin/true"))
    done = run("systemd-analyze", "verify", "--man=no", str(file))
    assert done.returncode == 0 and file.name not in done.stderr, done.stderr
    file.write_text(file.read_text() + "\n[Service]\nNoNewPrivilege=yes\n")
    assert "'NoNewPrivilege'" in run("systemd-analyze", "verify", "--man=no", str(file)).stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", UNITS)
def test_units_expose_little(unit: str, tmp_path: Path) -> None:
    """Of 10, where 10 is a service without any protection."""
    file = tmp_path / unit.replace("@", "@alice")
    file.write_text(text(f"systemd/{unit}"))
    done = run("systemd-analyze", "security", "--offline=yes", "--no-pager", str(file))
    found = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    if found is None:
        pytest.skip("this systemd-analyze has no offline mode")
    assert float(found[1]) < 2.0


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


# --- kubernetes -------------------------------------------------------------------------------------------------------


def test_all_objects_have_a_version_and_the_namespace() -> None:
    versions = {
        "Namespace": "v1",
        "ConfigMap": "v1",
        "Service": "v1",
        "StatefulSet": "apps/v1",
        "NetworkPolicy": "networking.k8s.io/v1",
    }
    for (kind, name), document in KUBERNETES.items():
        assert document["apiVersion"] == versions[kind]
        if kind != "Namespace":
            assert document["metadata"]["namespace"] == "torchveil", name
    assert ("Namespace", "torchveil") in KUBERNETES
    assert not [name for kind, name in KUBERNETES if kind == "Secret"], "secrets are made by operators"


def test_the_config_maps_hold_the_files() -> None:
    held = {}
    for (kind, _), document in KUBERNETES.items():
        if kind == "ConfigMap":
            held.update(document["data"])
    assert held == {file.name: file.read_text() for file in DEPLOY.glob("config/*.toml")}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_a_hardened_set_with_its_own_secret(role: str) -> None:
    _, command = ROLES[role]
    spec = KUBERNETES["StatefulSet", role]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["replicas"] == 1 and spec["serviceName"] == role and spec["selector"]["matchLabels"] == labels
    pod = spec["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True and security["runAsUser"] == security["fsGroup"] == USER
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    (apart,) = pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert apart["labelSelector"]["matchLabels"].items() <= labels.items()
    (container,) = pod["containers"]
    assert container["image"] == IMAGE and container["args"] == [command, "--config", f"/etc/torchveil/{role}.toml"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    probe = ["torchveil", "status", "--role", f"/etc/torchveil/{role}.toml", "--probe"]
    assert container["startupProbe"]["exec"]["command"] == container["livenessProbe"]["exec"]["command"] == probe
    for name in ("startupProbe", "livenessProbe"):
        assert container[name]["periodSeconds"] >= container[name]["timeoutSeconds"] >= 10
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"roles": PORT, "metrics": METRICS}
    assert container["readinessProbe"]["httpGet"]["port"] in ports
    assert {"cpu", "memory"} <= container["resources"]["requests"].keys() and "memory" in container["resources"][
        "limits"
    ]


@pytest.mark.parametrize("role", ROLES)
def test_mounts_volumes_maps_and_secrets_fit(role: str) -> None:
    spec = KUBERNETES["StatefulSet", role]["spec"]
    pod = spec["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    claims = {claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]}
    mounts = {mount["name"]: mount for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts.keys() == volumes.keys() | claims
    assert mounts["files"]["readOnly"] is True
    files = tomllib.loads(text(f"config/{role}.toml"))
    assert files["state"].startswith(mounts["state"]["mountPath"] + "/")
    found = set()
    for source in volumes["files"]["projected"]["sources"]:
        if "configMap" in source:
            found |= KUBERNETES["ConfigMap", source["configMap"]["name"]]["data"].keys()
        else:
            assert source["secret"]["name"] == f"torchveil-{role}"
            found |= {item["path"] for item in source["secret"]["items"]}
    assert found == {"cluster.toml", f"{role}.toml", "ca.pem", files["certificate"], files["key"]}
    assert volumes["files"]["projected"]["defaultMode"] == 0o440, "others may not read a key, or the role refuses it"


@pytest.mark.parametrize("role", ROLES)
def test_a_service_leads_to_its_role(role: str) -> None:
    spec = KUBERNETES["Service", role]["spec"]
    template = KUBERNETES["StatefulSet", role]["spec"]["template"]
    assert spec["selector"].items() <= template["metadata"]["labels"].items()
    names = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
    assert [(port["port"], port["targetPort"] in names) for port in spec["ports"]] == [(PORT, True)]


def test_only_peers_controllers_and_prometheus_reach_a_role() -> None:
    everything = KUBERNETES["NetworkPolicy", "deny-all"]["spec"]
    assert everything == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    policy = KUBERNETES["NetworkPolicy", "torchveil-roles"]["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    chosen = policy["podSelector"]["matchLabels"].items()
    for role in ROLES:
        assert chosen <= KUBERNETES["StatefulSet", role]["spec"]["template"]["metadata"]["labels"].items()
    for way, key, ports in (("ingress", "from", {PORT, METRICS}), ("egress", "to", {PORT, 53})):
        for rule in policy[way]:
            assert rule[key] and rule["ports"], "an empty list means everybody"
            assert all(peer.get("podSelector") or peer.get("namespaceSelector") for peer in rule[key])
        assert {port["port"] for rule in policy[way] for port in rule["ports"]} == ports
