"""A client of `xql serve`: arrays or named rows in, actions out. Needs httpx, and no JAX."""

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
        batch = np.atleast_2d(observations)
        answer = self._ask("POST", "/act", {"observations": batch.tolist()})
        actions = np.asarray(answer["actions"])
        return actions if np.ndim(observations) > 1 else actions[0]

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
        try:
            answer = self._http.request(method, path, json=body)
        except self._failures as error:
            raise ServiceError(f"{self._http.base_url}: {error}", None) from error
        try:
            content = answer.json()
        except ValueError:
            content = {"detail": answer.text[:200]}
        if answer.status_code != 200:
            raise ServiceError(
                f"{self._http.base_url}: {content.get('detail', content)}", answer.status_code
            )
        found: dict[str, Any] = content
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
