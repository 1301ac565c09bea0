"""Ray Train's trainer as training jobs use it: sizes of the worker group that share the batch out, a quieter log."""

import time
from typing import Any

from ray._private.state import available_resources_per_node
from ray._private.worker import get_dashboard_url
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    FixedScalingPolicy,
    NoopDecision,
    ResizeDecision,
)


class Trainer(TorchTrainer):
    """A TorchTrainer that waits ``wait_s`` for lost hosts; elastic worker groups have one of the sizes in ``sizes``."""

    sizes: tuple[int, ...] = ()
    wait_s: float = float("inf")

    def _initialize_and_run_controller(self, **given: Any) -> Any:
        if self.scaling_config.elasticity_enabled:
            given["scaling_policy"] = EvenSizes(self.scaling_config, self.sizes, self.wait_s)
        else:
            given["scaling_policy"] = SameSize(self.scaling_config, self.wait_s)
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


class Patience:
    """How long a group of workers that has trained may be without a place.

    Ray Train itself tries for ever. Before a group has trained once there is no limit: jobs wait for their turn.
    """

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._has_trained = False
        self._without_s: float | None = None  # since when, by the monotonic clock

    def trains(self) -> None:
        """Note that the group runs."""
        self._has_trained, self._without_s = True, None

    def is_without_place(self, fewest: int) -> None:
        """Note that it does not run.

        Raises:
            TimeoutError: it has not for too long, which ends the training.
        """
        now = time.monotonic()
        if not self._has_trained:
            return
        if self._without_s is None:
            self._without_s = now
        if now - self._without_s > self._wait_s:
            raise TimeoutError(
                f"no room for {fewest} workers for {self._wait_s:.0f} s, since some were lost: bring hosts back and "
                "give the same command again, which goes on from the last checkpoint, or raise scale.wait_s"
            )


class SameSize(FixedScalingPolicy):
    """Always as many workers."""

    def __init__(self, scaling_config: Any, wait_s: float) -> None:
        super().__init__(scaling_config)
        self._patience = Patience(wait_s)

    def make_decision_for_non_running_worker_group(self) -> Any:
        """Try to start the group. Raises TimeoutError as ``Patience``."""
        self._patience.is_without_place(self.scaling_config.num_workers)
        return super().make_decision_for_non_running_worker_group()

    def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> Any:
        """Leave it as it is."""
        self._patience.trains()
        return super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)


class EvenSizes(ElasticScalingPolicy):
    """As many workers as there is room for and as share the batch out evenly."""

    def __init__(self, scaling_config: Any, sizes: tuple[int, ...], wait_s: float) -> None:
        super().__init__(scaling_config)
        self._sizes = sizes
        self._patience = Patience(wait_s)

    def make_decision_for_non_running_worker_group(self) -> Any:
        """Start the group where there is room. Raises TimeoutError as ``Patience``."""
        self._patience.is_without_place(self.scaling_config.min_workers)
        return super().make_decision_for_non_running_worker_group()

    def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> Any:
        """Stop a healthy group for a larger one only if that has room now: what is reserved may be in use by others."""
        self._patience.trains()
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
