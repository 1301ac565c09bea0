"""The Kubernetes objects have the fields that KubeRay's API has, and fit together."""

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.config import load
from workflows.serve import Serve

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "clusters" / "kuberay"
# The fields of ray.io/v1 that these files may use, by KubeRay's API reference (docs/reference/api.md, v1.7); of what
# Kubernetes itself defines, those that we use.
_CLUSTER = {
    *("rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec"),
    *("workerGroupSpecs", "gcsFaultToleranceOptions", "suspend", "upgradeStrategy", "headServiceAnnotations"),
}
_SPECS = {
    "RayCluster": _CLUSTER,
    "RayJob": {
        *("entrypoint", "runtimeEnvYAML", "submissionMode", "backoffLimit", "activeDeadlineSeconds", "metadata"),
        *("shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec", "clusterSelector", "suspend"),
        *("entrypointNumCpus", "entrypointNumGpus", "submitterPodTemplate", "submitterConfig"),
    },
    "RayService": {
        *("serveConfigV2", "rayClusterConfig", "upgradeStrategy", "serveService", "excludeHeadPodFromServeSvc"),
        *("rayClusterDeletionDelaySeconds", "suspend"),
    },
}
_AUTOSCALER = {"version", "idleTimeoutSeconds", "upscalingMode", "resources", "image", "env", "envFrom"}
_HEAD = {"rayStartParams", "template", "headService", "serviceType", "enableIngress", "resources", "labels"}
_WORKERS = {
    *("groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template", "priority", "numOfHosts"),
    *("idleTimeoutSeconds", "resources", "labels", "scaleStrategy"),
}
_POD = {"containers", "volumes", "tolerations", "nodeSelector", "serviceAccountName", "initContainers"}
_CONTAINER = {
    *("name", "image", "ports", "env", "envFrom", "volumeMounts", "resources", "command", "args"),
    *("startupProbe", "livenessProbe", "readinessProbe", "lifecycle", "securityContext"),
}
_PROBE = {"httpGet", "exec", "periodSeconds", "timeoutSeconds", "failureThreshold", "initialDelaySeconds"}


def _objects() -> list[Any]:
    return [each for path in sorted(FOLDER.glob("*.yaml")) for each in yaml.safe_load_all(path.read_text())]


def _rays() -> list[Any]:
    return [each for each in _objects() if each["apiVersion"] == "ray.io/v1"]


def _cluster(ray: Any) -> Any:
    spec = ray["spec"]
    return spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec


def _groups(cluster: Any) -> list[Any]:
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def _unknown(ray: Any) -> Iterator[str]:
    """Yield every field that the API does not have."""
    cluster = _cluster(ray)
    yield from set(ray) - {"apiVersion", "kind", "metadata", "spec"}
    yield from set(ray["spec"]) - _SPECS[ray["kind"]]
    yield from set(cluster) - _CLUSTER
    yield from set(cluster["autoscalerOptions"]) - _AUTOSCALER
    yield from set(cluster["headGroupSpec"]) - _HEAD
    for group in cluster["workerGroupSpecs"]:
        yield from set(group) - _WORKERS
    for group in _groups(cluster):
        pod = group["template"]["spec"]
        yield from set(pod) - _POD
        for container in pod["containers"]:
            yield from set(container) - _CONTAINER
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                yield from set(container[probe]) - _PROBE


@pytest.mark.parametrize("ray", _rays(), ids=lambda ray: ray["kind"])
def test_fields_are_those_of_the_api(ray: Any) -> None:
    assert list(_unknown(ray)) == []
    wrong = copy.deepcopy(ray)
    _cluster(wrong)["workerGroupSpecs"][0]["minReplica"] = 1
    assert list(_unknown(wrong)) == ["minReplica"]


@pytest.mark.parametrize("ray", _rays(), ids=lambda ray: ray["kind"])
def test_values_have_the_types_of_the_api(ray: Any) -> None:
    cluster = _cluster(ray)
    assert cluster["authOptions"]["mode"] == "token" and cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["autoscalerOptions"]["upscalingMode"] in ("Default", "Conservative", "Aggressive")
    assert cluster["enableInTreeAutoscaling"] is True
    for group in _groups(cluster):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values()), "a map of strings"
    for group in cluster["workerGroupSpecs"]:
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in _groups(cluster):
        limits = group["template"]["spec"]["containers"][0]["resources"]
        assert limits["limits"] == limits["requests"], "Ray tells what a pod has by its limits"


@pytest.mark.parametrize("ray", _rays(), ids=lambda ray: ray["kind"])
def test_pods_have_the_storage_the_secrets_and_probes(ray: Any) -> None:
    claims = {each["metadata"]["name"] for each in _objects() if each["kind"] == "PersistentVolumeClaim"}
    for group in _groups(_cluster(ray)):
        pod = group["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["storage"]["persistentVolumeClaim"]["claimName"] in claims
        container = pod["containers"][0]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(mounts) <= set(volumes) and mounts["storage"] == "/storage"
        assert container["envFrom"] == [{"secretRef": {"name": "raylign-secrets"}}]
        assert [each["value"] for each in container["env"] if each["name"] == "HF_HOME"] == ["/storage/hub"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe]["httpGet"]["path"] in ("/api/healthz", "/-/healthz")
        assert container["startupProbe"]["failureThreshold"] > container["livenessProbe"]["failureThreshold"]


@pytest.mark.parametrize("ray", _rays(), ids=lambda ray: ray["kind"])
def test_pods_without_gpus_run_the_image_whose_engines_need_none(ray: Any) -> None:
    containers = [group["template"]["spec"]["containers"][0] for group in _groups(_cluster(ray))]
    has_gpus = any("nvidia.com/gpu" in container["resources"]["limits"] for container in containers)
    (image,) = {container["image"] for container in containers}
    assert image.endswith("-cpu") is not has_gpus


def test_every_object_in_one_storage_uses_what_it_mounts() -> None:
    by_kind = {ray["kind"]: ray for ray in _rays()}
    assert "storage=/storage/" in by_kind["RayJob"]["spec"]["entrypoint"]
    (application,) = yaml.safe_load(by_kind["RayService"]["spec"]["serveConfigV2"])["applications"]
    assert application["args"]["storage"].startswith("/storage/")
    assert application["runtime_env"]["working_dir"] == "local:///home/ray/raylign"
    assert yaml.safe_load(by_kind["RayJob"]["spec"]["runtimeEnvYAML"])["working_dir"] == "local:///home/ray/raylign"
    assert "WORKDIR /home/ray/raylign" in (FOLDER / "Dockerfile").read_text()


def test_the_served_arguments_are_a_configuration_of_serve() -> None:
    """As build_app reads them: everything but `config` is an override."""
    service = next(ray for ray in _rays() if ray["kind"] == "RayService")
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    from ray.serve.schema import ServeDeploySchema

    ServeDeploySchema.model_validate(config)
    arguments = config["applications"][0]["args"]
    path = ROOT / arguments["config"]
    assert path.is_file()
    loaded = load(Serve, str(path), [f"{key}={value}" for key, value in arguments.items() if key != "config"])
    assert loaded.engine.gpu is True and loaded.keys == "API_KEYS"
    assert {"docs-assistant", "docs-assistant-rag"} <= {name.name for name in loaded.names}


def test_gpu_groups_prefer_spot_and_ask_for_gpus() -> None:
    cluster = next(ray for ray in _rays() if ray["kind"] == "RayCluster")["spec"]
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    assert groups["gpu-spot"]["priority"] > groups["gpu"]["priority"]
    for name in ("gpu-spot", "gpu"):
        limits = groups[name]["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert int(limits["nvidia.com/gpu"]) > 0
    assert groups["data"]["minReplicas"] == groups["gpu"]["minReplicas"] == 0


@pytest.mark.parametrize("ray", _rays(), ids=lambda ray: ray["kind"])
def test_the_custom_resource_definitions_accept_it(ray: Any) -> None:
    """Against KubeRay's own schemas, of which no Python package has a copy."""
    import jsonschema

    if "RAYLIGN_KUBERAY_CRDS" not in os.environ:
        pytest.skip("no CRDs here: set RAYLIGN_KUBERAY_CRDS to kuberay/ray-operator/config/crd/bases")
    path = Path(os.environ["RAYLIGN_KUBERAY_CRDS"]) / f"ray.io_{ray['kind'].lower()}s.yaml"
    versions = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["spec"]["versions"]
    schema = next(v["schema"]["openAPIV3Schema"] for v in versions if v["name"] == "v1")
    _forbid_others(schema)
    schema["properties"]["metadata"] = {"type": "object"}
    jsonschema.validate(ray, schema)
    wrong = copy.deepcopy(ray)
    _cluster(wrong)["workerGroupSpecs"][0]["minReplica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="minReplica"):
        jsonschema.validate(wrong, schema)


def _forbid_others(schema: Any) -> None:
    """Make an unknown field an error, as kubectl does, and say in JSON Schema what may be a number or a string."""
    if isinstance(schema, list):
        for item in schema:
            _forbid_others(item)
    if not isinstance(schema, dict):
        return
    if schema.get("x-kubernetes-int-or-string"):
        schema["type"] = ["integer", "string"]
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    for item in list(schema.values()):
        _forbid_others(item)
