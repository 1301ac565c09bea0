"""Ray Train's trainer as training jobs use it: sizes of the worker group that share the batch out, a quieter log."""

from typing import Any

from ray._private.worker import get_dashboard_url
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy


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

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        room = super()._count_possible_workers(reserved_resources)
        return max((size for size in self._sizes if size <= room), default=0)
