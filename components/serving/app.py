"""Plans, builds, starts and stops the Serve application."""

import contextlib
import logging
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from components import storage as place
from components.config import UserError
from components.serving.address import address, already_serves, check_name_free, free_port, shared_address
from components.serving.ingress import ServingPlan
from components.serving.keys import check_budgets, key_digest, read_keys
from components.serving.settings import EngineOptions, KeyBudgets, SearchOptions, ServedName
from components.serving.tracing import Tracing

APPLICATION = "raylign"
QUIET = {"log_level": "WARNING", "enable_access_log": False}


def make_plan(
    *,
    model: str,
    names: Sequence[ServedName],
    engine: EngineOptions,
    storage: str | Path,
    index: str | None = None,
    embedder: str | None = None,
    scorer: str | None = None,
    keys: str | None = None,
    admin_keys: str | None = None,
    key_budgets: KeyBudgets | None = None,
    traces: float = 0.0,
    experiment: str = "raylign",
) -> ServingPlan:
    """Return the plan for these references, each of them looked up and checked; nothing is started.

    Args:
        scorer: the reward model that strategies score answers with.
        keys: name of the environment variable that holds the API keys, as ``keys.read_keys`` reads them.
        admin_keys: the same for the keys that may change adapters.
        traces: share of chat requests that leave an MLflow trace, in ``experiment``.

    Raises:
        UserError: a name is given twice, searches without an index, or has a strategy or an option that is
            not there; the model, an adapter, the index or the keys are missing, an adapter is not for the model,
            or a budget is for no key.
    """
    from components.data.store import pin
    from components.models.sources import digest, resolve
    from components.serving.adapter_files import Declared, carrier_of, fetch_declared
    from components.serving.lineage import served_lineage, with_adapter
    from components.serving.search import check_modes, choice, summaries_of
    from components.serving.strategy_checks import check_scorer, check_tables
    from components.serving.strategy_files import with_digests
    from components.tracking.run import tracking_uri

    names = _prepared(names, engine, index, embedder, scorer)
    users, admins = read_keys(keys), read_keys(admin_keys, "admin_keys")
    key_names = {key_digest(key): name for key, name in (users | admins if users else {}).items()}
    budgets = key_budgets or KeyBudgets()
    check_budgets(budgets, key_names.values())
    home = place.folder(str(storage))
    cache = home / "cache"
    folder = resolve(model, cache)
    pinned = pin(index) if index else None
    if pinned:
        check_modes(names, pinned)
    embedder_folder = resolve(embedder, cache) if embedder else None
    model_digest = digest(folder, cache)
    embedder_digest = digest(embedder_folder, cache) if embedder_folder else None
    check_tables(names, model_digest)
    scorer_folder = check_scorer(resolve(scorer, cache), folder) if scorer else None
    scorer_digest = digest(scorer_folder, cache) if scorer_folder else None
    plain = served_lineage(ServedName(name="bare"), folder, model_digest, None, None)
    carrier, declared = None, Declared(names)
    if engine.adapters.at_once:
        carrier = carrier_of(folder, model_digest, engine.adapters)
        declared = fetch_declared(names, carrier, home)
    parts = (folder, model_digest, pinned, embedder_digest, scorer_digest)
    chosen = choice(pinned) if pinned else None
    pages = {
        name.name: served_lineage(with_digests(name), *parts, summaries_of(name, pinned), chosen) for name in names
    }
    for name, adapter in declared.answering():
        pages[name] = with_adapter(pages[name], name, adapter)
    return ServingPlan(
        model=str(folder),
        names=declared.names,
        engine=engine,
        feedback_uri=f"{storage}/lancedb",
        index=pinned,
        embedder=str(embedder_folder) if embedder_folder else None,
        chosen=chosen,
        scorer=str(scorer_folder) if scorer_folder else None,
        key_digests=tuple(map(key_digest, users)),
        admin_digests=tuple(map(key_digest, admins)),
        key_names=key_names,
        key_budgets=budgets,
        lineage=pages,
        plain_lineage=plain,
        storage=str(home),
        carrier=carrier,
        adapters=declared.adapters,
        aliases=declared.aliases,
        tracing=Tracing(traces, tracking_uri(home), experiment, str(home)) if traces else None,
        adapter_memory=str(cache / "adapters" / f"{uuid.uuid4().hex}.json") if carrier else None,
    )


def _prepared(
    names: Sequence[ServedName], engine: EngineOptions, index: str | None, embedder: str | None, scorer: str | None
) -> tuple[ServedName, ...]:
    """Return the names that are served, what their options' files hold within them. Raises UserError as make_plan."""
    from components.serving.strategy_files import with_files

    names = with_files(tuple(names) or default_names(has_index=index is not None))
    given = {"score": scorer, "similar": embedder, "retrieve": index}
    has = frozenset(need for need, reference in given.items() if reference)
    check_names(names, has_index=index is not None, carries_adapters=engine.adapters.at_once > 0, has=has)
    if index and not embedder:
        raise UserError("an index is searched with the embedder that made it: give it with embedder=…")
    return names


def default_names(*, has_index: bool) -> tuple[ServedName, ...]:
    """Return what is served where no names are declared."""
    plain = ServedName(name="assistant")
    if not has_index:
        return (plain,)
    rag = ServedName(name="assistant-rag", search=SearchOptions())
    return (plain, rag, ServedName(name="assistant-rag-cot", search=SearchOptions(), strategy="zero_shot_cot"))


def check_names(
    names: Sequence[ServedName],
    *,
    has_index: bool,
    carries_adapters: bool = False,
    has: frozenset[str] = frozenset(),
) -> None:
    """Raise a UserError where the names cannot be served as they are declared.

    Args:
        has: what strategies can be handed: score, similar, retrieve.
    """
    from components.serving.strategy_checks import check_strategy

    seen: set[str] = set()
    for name in names:
        if name.name in seen:
            raise UserError(f"the name '{name.name}' is declared twice: names under /v1/models are unique")
        seen.add(name.name)
        if name.search is not None and not has_index:
            raise UserError(f"the name '{name.name}' searches, but there is no index: give one with index=…")
        if name.adapter is not None and not carries_adapters:
            raise UserError(
                f"the name '{name.name}' has an adapter, and the engine carries none: engine.adapters.at_once=1"
            )
        if carries_adapters and "@" in name.name:
            raise UserError(f"the name '{name.name}' looks like an adapter's address: leave the @ out")
        check_strategy(name, has)


def build(plan: ServingPlan) -> Any:
    """Return the Serve application of a plan; needs a connection to Ray, whose GPUs it looks for."""
    import ray

    from components.models.engine import engines_on_gpu

    resources = ray.cluster_resources()
    on_gpu = engines_on_gpu(plan.engine.gpu)
    check_fits(plan, resources, on_gpu)
    with _logging_kept():
        from components.serving.engines import engine_deployment

        adapters = [adapter.for_engine() for adapter in plan.adapters]
        engine = engine_deployment(Path(plan.model), plan.engine, adapters, on_gpu=on_gpu)
    return around(plan, engine)


def around(plan: ServingPlan, engine: Any, ingresses: int = 1) -> Any:
    """Return the Serve application of a plan over its engine's deployment, with so many replicas of the ingress."""
    from ray import serve

    from components.serving.ingress import Ingress
    from components.serving.key_budgets import Ledger
    from components.serving.scoring import ScoreServer
    from components.serving.search import SearchServer

    search = scorer = ledger = None
    if plan.embedder:
        quiet = {"runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}}}
        deployment = _deployment(SearchServer, "search", 16, **quiet)
        search = deployment.bind(plan.index, plan.embedder, str(Path(plan.storage) / "cache"), plan.chosen)
    if plan.scorer:
        scorer = _deployment(ScoreServer, "scorer", 4).bind(plan.scorer, plan.model)
    if plan.key_budgets.limited():  # one replica, as it is what all others agree by; Serve soon sees when it dies
        ledger = _deployment(Ledger, "ledger", 1000).options(health_check_period_s=1).bind(plan.key_budgets)
    ingress = _deployment(serve.ingress()(Ingress), "ingress", 1000).options(num_replicas=ingresses)
    return ingress.bind(plan, engine, search, scorer, ledger)


def _deployment(what: Any, name: str, at_once: int, **actor_options: Any) -> Any:
    """Return a deployment beside the engine, for which no CPU is reserved."""
    from ray import serve

    options = {"ray_actor_options": {"num_cpus": 0, **actor_options}, "logging_config": QUIET}
    return serve.deployment(what, name=name, max_ongoing_requests=at_once, **options)


def check_fits(plan: ServingPlan, resources: Mapping[str, float], on_gpu: bool) -> None:
    """Raise a UserError for what would wait for ever, or not start: too few CPUs or GPUs, formats without hardware."""
    from components.serving.lineage import quantization

    needed = {"CPU": plan.engine.cpus * plan.engine.replicas}
    if on_gpu:
        needed = {"CPU": needed["CPU"] * plan.engine.tensor_parallel}
        needed["GPU"] = plan.engine.replicas * plan.engine.tensor_parallel
    if plan.engine.gpu:  # a pool may bring them yet
        needed = {}
    for kind, count in needed.items():
        if count > resources.get(kind, 0):
            raise UserError(
                f"the engine asks for {count:g} {kind}s and the cluster has {resources.get(kind, 0):g}: lower "
                "engine.replicas, engine.cpus or engine.tensor_parallel, or use a larger cluster"
            )
    stored = quantization(Path(plan.model)) or {}
    if not on_gpu and stored and plan.engine.adapters.at_once:
        # vLLM 0.32 drops 8-bit weights once they are packed for the CPU, then asks them where to put the adapter
        raise UserError(
            f"{plan.model} is quantized ({stored.get('format')}), and a CPU puts adapters on unquantized weights only: "
            "serve the model that it was made from, or merge the adapter before quantizing and set "
            "engine.adapters.at_once=0"
        )
    if not on_gpu and "float" in str(stored.get("format")) and "amx_bf16" not in _cpu_flags():
        raise UserError(
            f"{plan.model} is quantized to {stored['format']}, which a CPU without AMX computes too slowly to serve: "
            "quantize it to w8a8_int8"
        )


def _cpu_flags() -> list[str]:
    flags = Path("/proc/cpuinfo")
    return flags.read_text().split() if flags.is_file() else []


@contextlib.contextmanager
def _logging_kept() -> Iterator[None]:
    """Undo what importing ray.serve.llm does to this process's logging: other handlers, and chatter."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.getLogger("ray.serve").setLevel(logging.WARNING)


@contextlib.contextmanager
def serving(plan: ServingPlan, host: str, port: int) -> Iterator[str]:
    """Serve the plan on the connected Ray cluster, hand out its address, and stop it on the way out.

    Port 0 takes a free one. A cluster that already serves keeps its own address and other applications.

    Raises:
        UserError: the port is taken, or the cluster serves another such plan.
    """
    from ray import serve

    shared = already_serves()
    if shared:
        check_name_free(APPLICATION)
    else:
        port = free_port(host, port)
        serve.start(http_options={"host": host, "port": port}, logging_config=QUIET)
    try:
        serve.run(build(plan), name=APPLICATION, route_prefix="/")
        yield address(host, port) if not shared else shared_address()
    finally:
        if shared:
            serve.delete(APPLICATION)
        else:
            serve.shutdown()
