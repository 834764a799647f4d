"""A client of `xql serve`: arrays or named rows in, actions out. Needs httpx, and no JAX."""

import json
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from xql.errors import require


class ServiceError(RuntimeError):
    """The service did not answer a request as asked.

    Attributes:
        status: of HTTP; None where no answer came.
    """

    def __init__(self, text: str, status: int | None) -> None:
        super().__init__(text)
        self.status = status


class PolicyClient:
    """Asks one service for actions, over a connection that stays open; a context manager.

    For example:

        with PolicyClient("http://127.0.0.1:8000") as client:
            actions = client.act(observations)
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = 10.0) -> None:
        """Connect at the first request.

        Args:
            url: such as http://127.0.0.1:8000.
            token: the bearer token, if the service asks for one.
            timeout: seconds to wait for an answer.

        Raises:
            MissingExtra: httpx is not installed.
        """
        httpx = require("httpx", "serve")
        self._failures: tuple[type[Exception], ...] = (httpx.HTTPError, httpx.InvalidURL)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout)

    def act(
        self, observations: Float[np.ndarray, "*batch observation"]
    ) -> Shaped[np.ndarray, "..."]:
        """The most likely action of an observation, or those of a batch.

        Returns:
            float [..., action]; of discrete actions their numbers, int [...].

        Raises:
            ServiceError: the service refuses them, or cannot be reached.
        """
        given = np.atleast_1d(observations)
        batch = given.reshape(-1, given.shape[-1]).tolist()
        actions = np.asarray(self._ask("POST", "/act", {"observations": batch})["actions"])
        return actions.reshape(*given.shape[:-1], *actions.shape[1:])

    def act_on_rows(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Named actions for rows of the table that the policy was trained on.

        Raises:
            ServiceError: the service refuses them, or cannot be reached.
        """
        named: list[dict[str, Any]] = self._ask("POST", "/act", {"rows": [dict(r) for r in rows]})[
            "named"
        ]
        return named

    def policy(self) -> dict[str, Any]:
        """The metadata of the policy that is served; see docs/export.md.

        Raises:
            ServiceError: the service cannot be reached, or asks for another token.
        """
        return self._ask("GET", "/policy")

    def health(self) -> dict[str, Any]:
        """That the service is up, and which policy it serves.

        Raises:
            ServiceError: it cannot be reached.
        """
        return self._ask("GET", "/health")

    def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        # httpx's own way refuses a NaN, which the service does in a line that says where.
        content = None if body is None else json.dumps(body, default=_plain)
        kind = {"Content-Type": "application/json"}
        try:
            answer = self._http.request(method, path, content=content, headers=kind)
        except self._failures as error:
            raise ServiceError(f"{self._http.base_url}: {error}", None) from error
        found: dict[str, Any]
        try:
            found = answer.json()
        except ValueError:
            found = {"detail": answer.text[:200]}
        if answer.status_code != 200:
            raise ServiceError(
                f"{self._http.base_url}: {found.get('detail', found)}", answer.status_code
            )
        return found

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def __enter__(self) -> "PolicyClient":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _plain(value: Any) -> Any:
    """A number of NumPy's, as rows of a data frame hold them, as JSON takes it."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__} is no value of a row")
