"""The deployed functions: create, update, scale, remove, and bring back after a restart."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bucky.errors import NotFound
from bucky.log import get_logger
from local_provider.deployments import (
    MAX_REPLICAS,
    AlreadyExists,
    Deployed,
    Deployment,
    DeploymentStore,
    InvalidRequest,
    check_namespace,
    status,
)
from local_provider.durable import make_folder
from local_provider.logs import FunctionLog
from local_provider.process import Replica, command, parse_command
from local_provider.replicas import ReplicaSet
from local_provider.secrets import Secret, SecretStore

_log = get_logger("provider")


class DeployedFunction:
    """One deployed function: what is wanted, and the replica sets that serve it, newest first."""

    def __init__(self, deployed: Deployed, log: FunctionLog) -> None:
        self.deployed = deployed
        self.log = log
        self.invocations = 0
        self.sets: list[ReplicaSet] = []

    def pick(self) -> Replica | None:
        """Return a ready replica; during an update the old ones serve until the new ones are ready."""
        return next((replica for each in self.sets if (replica := each.pick()) is not None), None)

    @property
    def available(self) -> int:
        """The number of ready replicas, at most the number wanted."""
        return min(self.deployed.replicas, sum(each.available for each in self.sets))

    def status(self) -> Mapping[str, Any]:
        """Return the API's `FunctionStatus`."""
        restarts = sum(each.recent_restarts for each in self.sets)
        return status(self.deployed, self.available, self.invocations, restarts)


class Functions:
    """All functions of this provider. Changes are on disk before a method returns."""

    def __init__(
        self,
        folder: Path,
        inherited: Mapping[str, str],
        on_fault: Callable[[BaseException], None],
    ) -> None:
        self._store = DeploymentStore(folder / "functions")
        self._secrets = SecretStore(folder / "secrets", folder / "mounts")
        self._logs = folder / "logs"
        make_folder(self._logs)
        self._inherited = inherited
        self._on_fault = on_fault
        self._functions: dict[str, DeployedFunction] = {}
        self._background: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[DeployedFunction]:
        return iter([self._functions[name] for name in sorted(self._functions)])

    def get(self, name: str) -> DeployedFunction:
        """Return a function; raise `NotFound` when it is not deployed."""
        if name not in self._functions:
            raise NotFound(f"there is no function {name}; `faas-cli list` shows those there are")
        return self._functions[name]

    def restore(self) -> None:
        """Start every function that was deployed before this provider was restarted."""
        for deployed in self._store.load():
            self._run(DeployedFunction(deployed, FunctionLog(deployed.deployment.service, self._logs)))

    def create(self, deployment: Deployment) -> None:
        """Deploy a new function."""
        if deployment.service in self._functions:
            raise AlreadyExists(f"there is a function {deployment.service} already; update it with PUT")
        self._check(deployment)
        deployed = Deployed(deployment=deployment, created_at=datetime.now(UTC))
        self._store.save(deployed)
        self._run(DeployedFunction(deployed, FunctionLog(deployment.service, self._logs)))
        _log.info("function.deployed", function=deployment.service, image=deployment.image)

    def update(self, deployment: Deployment) -> None:
        """Replace a function's replicas without a gap; nothing happens when it is the same."""
        function = self.get(deployment.service)
        self._check(deployment)
        if deployment == function.deployed.deployment:
            return
        function.deployed = function.deployed.model_copy(update={"deployment": deployment})
        self._store.save(function.deployed)
        self._roll(function)
        _log.info("function.updated", function=deployment.service, image=deployment.image)

    def scale(self, name: str, replicas: int) -> None:
        """Set the number of replicas."""
        if not 0 <= replicas <= MAX_REPLICAS:
            raise InvalidRequest(f"replicas: from 0 to {MAX_REPLICAS}")
        function = self.get(name)
        function.deployed = function.deployed.model_copy(update={"replicas": replicas})
        self._store.save(function.deployed)
        self._start(function.sets[0].scale(replicas))
        _log.info("function.scaled", function=name, replicas=replicas)

    def remove(self, name: str) -> None:
        """Take a function out of service at once; its replicas are drained in the background."""
        function = self.get(name)
        self._store.remove(name)
        del self._functions[name]
        self._start(self._retire(function))
        _log.info("function.removed", function=name)

    def secret_names(self) -> tuple[str, ...]:
        """Return the names of all secrets; their values are never shown."""
        return self._secrets.names()

    def create_secret(self, secret: Secret) -> None:
        """Keep a new secret."""
        check_namespace(secret.namespace)
        if self._secrets.exists(secret.name):
            raise AlreadyExists(f"there is a secret {secret.name} already; update it with PUT")
        self._secrets.put(secret.name, secret.content())

    def update_secret(self, secret: Secret) -> None:
        """Change a secret; functions that declare it are replaced, for they read it when they start."""
        check_namespace(secret.namespace)
        if not self._secrets.exists(secret.name):
            raise NotFound(f"there is no secret {secret.name}")
        if self._secrets.put(secret.name, secret.content()):
            for function in self._declaring(secret.name):
                self._roll(function)

    def remove_secret(self, name: str) -> None:
        """Remove a secret that no function declares."""
        users = ", ".join(each.deployed.deployment.service for each in self._declaring(name))
        if users:
            raise AlreadyExists(f"the secret {name} is used by {users}; remove or redeploy them first")
        self._secrets.remove(name)

    async def close(self) -> None:
        """Drain and end all replicas; the deployments stay on disk."""
        for function in self:
            function.log.end_followers()
            self._start(_end(function))
        while self._background:
            await asyncio.wait(self._background)

    def _check(self, deployment: Deployment) -> None:
        check_namespace(deployment.namespace)
        parse_command(deployment)
        for name in deployment.secrets:
            if not self._secrets.exists(name):
                raise InvalidRequest(
                    f"{deployment.service} declares the secret {name}, which does not exist; "
                    f"make it with `faas-cli secret create {name}`"
                )

    def _declaring(self, secret: str) -> list[DeployedFunction]:
        return [each for each in self if secret in each.deployed.deployment.secrets]

    def _run(self, function: DeployedFunction) -> None:
        self._functions[function.deployed.deployment.service] = function
        self._roll(function)

    def _roll(self, function: DeployedFunction) -> None:
        deployment = function.deployed.deployment
        mounted = self._secrets.mount(deployment.service, deployment.secrets)
        replicas = ReplicaSet(command(deployment, self._inherited, mounted), function.log, self._on_fault)
        function.sets.insert(0, replicas)
        self._start(_take_over(function, replicas))

    async def _retire(self, function: DeployedFunction) -> None:
        await _end(function)
        name = function.deployed.deployment.service
        if name not in self._functions:  # it may have been deployed again meanwhile
            self._secrets.unmount(name)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._background.discard(task)
        fault = None if task.cancelled() else task.exception()
        if fault is not None:
            self._on_fault(fault)


async def _take_over(function: DeployedFunction, newest: ReplicaSet) -> None:
    await newest.scale(function.deployed.replicas)
    await newest.wait_ready()
    if newest not in function.sets:  # a still newer one took over meanwhile
        return
    place = function.sets.index(newest) + 1
    older, function.sets[place:] = function.sets[place:], []
    for each in older:
        await each.stop()


async def _end(function: DeployedFunction) -> None:
    await asyncio.gather(*(each.stop() for each in function.sets))
    function.log.close()
