"""A linear map of query vectors, which moves a query towards what answers it while the passages stay as they are.

Shapes: D numbers of a vector. A folder holds the map and the digest of the embedder that it was learned for: on the
vectors of another one it would mean nothing.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.config import UserError
from components.models.folder import write_whole

if TYPE_CHECKING:
    import numpy as np

FILE = "query_adapter.json"
_WEIGHTS = "matrix.safetensors"
_FIX = "give the folder that workflows.train_reranker made with kind=adapter"


@dataclass(frozen=True)
class QueryAdapter:
    """A map and the embedder it is for."""

    matrix_DD: "np.ndarray"  # float32; the identity changes nothing
    embedder: str  # digest

    @classmethod
    def read(cls, folder: str | Path) -> "QueryAdapter":
        """Return the adapter in a folder.

        Raises:
            UserError: the folder holds none, or one whose files do not belong together.
        """
        from safetensors.numpy import load_file

        page, weights = Path(folder) / FILE, Path(folder) / _WEIGHTS
        for path in (page, weights):
            if not path.is_file():
                raise UserError(f"{folder} is no query adapter: it has no {path.name}; {_FIX}")
        facts, matrix = json.loads(page.read_text()), load_file(weights)["matrix"]
        if matrix.shape != (facts["dimension"], facts["dimension"]):
            raise UserError(f"{weights} has the shape {matrix.shape}, {FILE} says {facts['dimension']}: {_FIX}")
        return cls(matrix, facts["embedder"])

    def write(self, folder: str | Path) -> None:
        """Write the adapter to a folder, the page last: without it there is no adapter."""
        from safetensors.numpy import save_file

        Path(folder).mkdir(parents=True, exist_ok=True)
        save_file({"matrix": self.matrix_DD}, Path(folder) / _WEIGHTS)
        facts = {"embedder": self.embedder, "dimension": len(self.matrix_DD)}
        write_whole(Path(folder) / FILE, json.dumps(facts, indent=2))

    def check(self, embedder: str, index: str) -> None:
        """Refuse vectors of another embedder than the adapter was learned for.

        Args:
            embedder: digest of the one that made the index's vectors.

        Raises:
            UserError: it is another one.
        """
        if embedder != self.embedder:
            raise UserError(
                f"the query adapter was trained for the embedder {self.embedder[:12]}, and the vectors of {index} were "
                f"made by {embedder[:12]}: train one on this index, or leave query_adapter out"
            )

    def apply(self, vector_D: "np.ndarray") -> "np.ndarray":
        """Return the unit vector of the mapped query: float32 [D]."""
        import numpy as np

        mapped = self.matrix_DD @ vector_D
        return mapped / max(float(np.linalg.norm(mapped)), 1e-12)


@dataclass(frozen=True)
class Examples:
    """What an adapter learns from. Shapes: Q questions, P passages."""

    rows: list[dict[str, Any]]  # {"query", "passages", "labels"}: numbers of vectors, and 1.0 for an answer, else 0.0
    queries_QD: "np.ndarray"  # float32
    passages_PD: "np.ndarray"  # float32
