"""Ray Train's trainer as training jobs use it: sizes of the worker group that share the batch out, a quieter log."""

from typing import Any

from ray._private.state import available_resources_per_node
from ray._private.worker import get_dashboard_url
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, NoopDecision, ResizeDecision


class Trainer(TorchTrainer):
    """A TorchTrainer whose elastic worker groups have one of the sizes in ``sizes``."""

    sizes: tuple[int, ...] = ()

    def _initialize_and_run_controller(self, **given: Any) -> Any:
        if self.scaling_config.elasticity_enabled:
            given["scaling_policy"] = EvenSizes(self.scaling_config, self.sizes)
        return super()._initialize_and_run_controller(**given)

    def _create_default_callbacks(self) -> list[Any]:
        """Leave out, on a cluster without a dashboard, the callback that needs one.

        It frees the workers' resources if Ray Train's controller is killed; without a dashboard it only logs a
        warning each second. Such a cluster is a workflow's own and ends with it.
        """
        callbacks = super()._create_default_callbacks()
        if get_dashboard_url():
            return callbacks
        return [callback for callback in callbacks if type(callback).__name__ != "PlacementGroupCleanerCallback"]


class EvenSizes(ElasticScalingPolicy):
    """As many workers as there is room for and as share the batch out evenly."""

    def __init__(self, scaling_config: Any, sizes: tuple[int, ...]) -> None:
        super().__init__(scaling_config)
        self._sizes = sizes

    def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> Any:
        """Stop a healthy group for a larger one only if that has room now: what is reserved may be in use by others."""
        decision = super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)
        if isinstance(decision, ResizeDecision):
            more = decision.num_workers - worker_group_state.num_workers
            if more > 0 and self._room(available_resources_per_node()) < more:
                return NoopDecision()
        return decision

    def _room(self, nodes: Any) -> int:
        return super()._count_possible_workers(nodes)

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        room = self._room(reserved_resources)
        return max((size for size in self._sizes if size <= room), default=0)
