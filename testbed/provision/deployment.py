"""A network of processes on hosts: set up, started, watched over, stopped.

The steps are the same on this machine and over SSH, because hosts are used only through their port.
Hosts are worked on in parallel. A host that fails is reported by name and the deployment stops, so
n never shrinks silently.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Self

from inventory.model import Lab
from nodes.edge_config import BrokerAddress
from testbed import programs
from testbed.boards.flash import FLASHED, HOST_KEY, is_plugged
from testbed.boards.ports import find_board
from testbed.errors import ConfigurationError, LabFault
from testbed.fleet import at_once
from testbed.hosts.port import (
    COMMAND_TIMEOUT_S,
    STOP_TIMEOUT_S,
    Host,
    HostFault,
    OutcomeUnknown,
    Unit,
    UnitState,
    Unreachable,
)
from testbed.provision.configs import (
    CONFIG,
    GO,
    READY,
    TRACE,
    File,
    LabNetwork,
)
from testbed.provision.layout import PROCESS_ROLES, Node, NodeRole, layout, sockets
from testbed.provision.material import Material, make_keys, read_factory
from testbed.provision.ports import free_ports
from testbed.systems.chain import CHAIN
from testbed.systems.system import System

__all__ = ["STOP_ORDER", "Deployment", "Progress", "clean"]

READY_S_MAX = 30.0
READY_LOOK_S = 1.0  # how long a host looks for a ready file before we ask whether the unit failed
HOLD_DOWN_S = 0.1
LOG_TAIL_CHARS = 1200

Progress = Callable[[str], None]

_DEVICES: Final[frozenset[NodeRole]] = frozenset({"mobile", "environment"})
STOP_ORDER: Final = (_DEVICES, frozenset(PROCESS_ROLES) - _DEVICES)
"""Groups are stopped one after the other; all processes of a group at once."""


class Deployment:
    """Use as a context manager: everything that was started is stopped on the way out.

    `python` names the interpreter on each host that has our code installed. `lab` keeps only the
    part that `system` uses.
    """

    def __init__(
        self,
        lab: Lab,
        hosts: Mapping[str, Host],
        python: Mapping[str, str],
        progress: Progress,
        system: System = CHAIN,
    ) -> None:
        lab = system.lab(lab)
        self.lab = lab
        self.system = system
        self.hosts = hosts
        self.nodes = layout(lab)
        self._python = python
        self._progress = progress
        self._network: LabNetwork | None = None
        self.broker_version: str | None = None  # "mosquitto 2.0.11", or "embedded"
        self.programs: dict[str, str] = {}  # in place of the role's own, by process
        self.begun: set[str] = set()  # names of all processes that were ever started
        self._started: list[Node] = []
        self._is_over = False  # `stop` was called
        self._held_down: set[Node] = set()
        self._put_off: dict[str, list[Callable[[], None]]] = {}  # by host
        self._lock = threading.Lock()
        self._in_turn = {node: threading.Lock() for node in self.nodes}  # starting and stopping

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def _made(self) -> LabNetwork:
        assert self._network is not None, "set_up was not called"
        return self._network

    @property
    def material(self) -> Material:
        return self._made.material

    @property
    def is_set_up(self) -> bool:
        return self._network is not None

    def with_role(self, role: NodeRole) -> list[Node]:
        return [node for node in self.nodes if node.role == role]

    def node(self, name: str) -> Node:
        """The process of this name, or the replica on the host of this name."""
        for node in self.nodes:
            if node.name == name or (node.role == "replica" and node.host == name):
                return node
        raise LabFault(f"no process is called {name}")

    def sponsor(self, board: Node) -> Node:
        """The environmental device that reads a board: the one on its host."""
        return next(each for each in self.with_role("environment") if each.host == board.host)

    @property
    def broker(self) -> BrokerAddress:
        """The address at which devices reach the broker."""
        return self._made.broker

    def python(self, node: Node) -> str:
        """The interpreter on a process's host that has our code installed."""
        return self._python[node.host]

    def host(self, node: Node) -> Host:
        return self.hosts[node.host]

    # --- set-up ---------------------------------------------------------------------------------

    def set_up(self) -> None:
        """Chooses ports, makes keys and genesis, writes configs, flashes boards. Starts nothing
        yet."""
        at_once(self._check_broker, self.with_role("broker"))
        self._progress("choosing ports and making keys")
        at_once(lambda name: clean(self.hosts[name], self.nodes), self.hosts)
        picked = at_once(self._pick_ports, self.hosts)
        ports = {name: port for each in picked for name, port in each.items()}
        keys = make_keys(self.hosts, self._python, list(self.nodes))
        factory = read_factory(self.lab, self.hosts, self.nodes)
        material = self.system.material(self.lab, self.nodes, keys, factory)
        self._network = LabNetwork(self.nodes, self.lab, material, ports)
        self._progress("writing configs and flashing boards")
        at_once(self._write_files, self.nodes)
        at_once(self._prepare_board, self.with_role("board"))

    def _pick_ports(self, host: str) -> dict[str, int]:
        here = [node for node in self.nodes if node.host == host]
        names = [name for node in here for name in sockets(node, self.lab)]
        first = self.lab.hosts[host].port
        if first is not None:
            return {name: first + number for number, name in enumerate(names)}
        ports = free_ports(self.hosts[host], self._python[host], self.lab.address(host), len(names))
        return dict(zip(names, ports, strict=True))

    def _check_broker(self, node: Node) -> None:
        """Looks for the kind of broker that the inventory asks for, before anything else. Raises
        HostFault if it is missing."""
        kind, host = self.lab.broker_kind(), self.host(node)
        self.broker_version = kind
        if kind == "embedded":
            return  # it came with our own environment
        argv = [self._python[node.host], "-m", "nodes.gateway.broker", "--about", kind]
        answer = host.run(argv, check=False)
        if answer.exit_code != 0:
            raise HostFault(
                host.name,
                f"look for the broker ({kind})",
                answer.stderr.strip(),
                f"install it on {host.name}, or choose another broker in the inventory "
                "(broker: {kind: embedded})",
            )
        self.broker_version = f"{kind} {json.loads(answer.stdout)['version']}"

    def _write_files(self, node: Node) -> None:
        for file in self.system.files(node, self._made):
            self.put(node, file)

    def _prepare_board(self, board: Node) -> None:
        if is_plugged(self.lab.boards[board.name]):
            self._link_port(board)
        else:
            self._flash(board)

    def _link_port(self, board: Node) -> None:
        """A real board was flashed before (`testbed flash`); its port is looked up by identity
        now."""
        host = self.host(board)
        if not host.exists(board.file(FLASHED)):
            raise ConfigurationError(f"board {board.name} is not flashed; testbed flash -i FILE")
        port = find_board(host, board.name, self.lab.boards[board.name])
        host.run(["ln", "-sfn", port.path, board.file("port")])

    def _flash(self, board: Node) -> None:
        argv = [self._python[board.host], "-m", "nodes.board.flash", "--dir", board.name]
        argv += ["--id", board.name, "--key", board.file(HOST_KEY)]
        flashed = self.host(board).run(argv).stdout
        self.put(board, File(FLASHED, flashed.encode()))

    def put(self, node: Node, file: File) -> None:
        """Write a file into a process's directory."""
        self.host(node).put(file.data, node.file(file.name), file.mode)

    def config(self, node: Node) -> dict[str, Any]:
        """The config with which a process starts."""
        found: dict[str, Any] = json.loads(self.host(node).get(node.file(CONFIG)))
        return found

    def configure(self, node: Node, **changes: object) -> None:
        """Change keys of a process's config, before it starts."""
        config = self.config(node) | changes
        self.put(node, File(CONFIG, json.dumps(config, indent=1).encode() + b"\n"))

    def trace(self, every: int) -> None:
        """Make the processes write traces (`nodes.trace_file`), before they start. One in `every`
        requests is traced, the same ones in all processes."""
        traced = [node for node in self.nodes if node.role in self.system.traced]
        at_once(lambda node: self.configure(node, trace=TRACE, trace_every=every), traced)

    def run_program(
        self, node: Node, program: str, *arguments: str, timeout_s: float = COMMAND_TIMEOUT_S
    ) -> str:
        """Run one of `testbed.programs` with the interpreter of a process, on its host. Returns
        what it printed."""
        argv = programs.python(self.python(node), program, *arguments)
        return self.host(node).run(argv, timeout_s=timeout_s).stdout

    # --- running --------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything except spares, role by role, and wait until each is ready."""
        for role in PROCESS_ROLES:
            nodes = self.with_role(role)
            if nodes and role != "spare":
                self._progress(f"starting {len(nodes)} x {role}")
                at_once(self.start_node, nodes)
                at_once(self.wait_ready, nodes)

    def start_node(self, node: Node) -> None:
        """Start one process (again). An older ready file does not count. Does nothing for a real
        board, which always runs, nor after `stop`: Ctrl-C does not wait for this thread."""
        if not self._is_process(node):
            return
        with self._in_turn[node]:
            with self._lock:
                if self._is_over:
                    return
                self._started.append(node)
            self.begun.add(node.name)
            self._held_down.discard(node)
            self.host(node).run(["rm", "-f", node.file(READY)])
            self.host(node).start(self.unit(node))

    @property
    def processes(self) -> list[Node]:
        """All nodes except plugged boards, which run by themselves, and spares that were not
        started."""
        there = (node for node in self.nodes if node.role != "spare" or node.name in self.begun)
        return [node for node in there if self._is_process(node)]

    def _is_process(self, node: Node) -> bool:
        return node.role != "board" or not is_plugged(self.lab.boards[node.name])

    def hold_down(self, node: Node, timeout_s: float = HOLD_DOWN_S) -> None:
        """End one process and keep it from coming back, until `start_node`. It has `timeout_s` to
        end properly. If its supervisor has just started it again, the new process ends too."""
        self._held_down.add(node)
        self._stop_node(node, timeout_s)

    def restart(self, node: Node) -> None:
        """End one process if it runs, and start it again, even if it was given up."""
        self.host(node).stop(node.unit)
        self.start_node(node)
        self.wait_ready(node)

    def revive(self, node: Node) -> None:
        """Makes a process run again after its host came back, for example after a power cut, and
        does what was put off there."""
        self._catch_up(node.host)
        with self._in_turn[node]:
            if node in self._started and node not in self._held_down:
                self.host(node).start(self.unit(node))

    def when_back(self, host: str, work: Callable[[], None]) -> None:
        """Does `work` on a host now or, if the host does not answer, when it is back. Repeatable
        work only."""
        try:
            work()
        except (Unreachable, OutcomeUnknown):
            with self._lock:
                self._put_off.setdefault(host, []).append(work)

    def _catch_up(self, host: str) -> None:
        with self._lock:
            todo = self._put_off.pop(host, [])
        at_once(partial(self.when_back, host), todo)

    def unit(self, node: Node) -> Unit:
        program = self.programs.get(node.name, self.system.programs[node.role])
        argv = [self._python[node.host], "-m", program]
        if node.role == "board":
            argv += ["--dir", node.name, "--link", node.file("port")]
        else:
            argv += ["--config", node.file(CONFIG)]
        return Unit(name=node.unit, argv=tuple(argv))

    def wait_ready(self, node: Node) -> None:
        """Wait until the process says that it serves. Otherwise raises LabFault with the end of its
        log; also if all is stopped meanwhile: after Ctrl-C the program ends with this thread."""
        host = self.host(node)
        ready = node.file("port" if node.role == "board" else READY)
        deadline_s = time.monotonic() + READY_S_MAX * host.slowness
        while not _comes(host, ready):
            if self._is_over:
                raise LabFault(f"{node.name} on {node.host} was stopped before it was ready")
            state = host.status(node.unit)
            if time.monotonic() > deadline_s or state.state is UnitState.FAILED:
                ended = f"ended with exit code {state.exit_code}"
                why = ended if state.exit_code else "is not ready"
                raise LabFault(f"{node.name} on {node.host} {why}:\n{self.log_tail(node)}")

    def log_tail(self, node: Node) -> str:
        """The last lines that a process printed."""
        log = str(self.host(node).log_path(node.unit))
        printed = self.host(node).run(["tail", "-c", str(LOG_TAIL_CHARS), log], check=False)
        # A process that is restarted again and again prints the same: once is enough.
        lines = dict.fromkeys(printed.stdout.strip().splitlines())
        return "\n".join(lines) or "(it printed nothing)"

    def go(self, plans: Mapping[str, bytes]) -> None:
        """Begin the run: give each device its plan (`nodes.device.workload`)."""
        at_once(lambda name: self.put(self.node(name), File(GO, plans[name])), plans)

    def stop(self) -> None:
        """Stop all that was started: devices first, then all that they talk to at once.

        If a host is gone, the other processes are stopped all the same; the host is reported
        afterwards. Ctrl-C may leave a start under way: its process is stopped after it.
        """
        with self._lock:
            self._is_over = True
            started, self._started = self._started, []
        faults: list[LabFault] = []
        try:
            at_once(self._catch_up, list(self._put_off))
        except LabFault as fault:
            faults.append(fault)
        for roles in STOP_ORDER:
            stopping = {node for node in started if node.role in roles}
            try:
                at_once(self._stop_node, sorted(stopping, key=str))
            except LabFault as fault:
                faults.append(fault)
        if faults:
            raise LabFault("\n".join(str(fault) for fault in faults))

    def _stop_node(self, node: Node, timeout_s: float = STOP_TIMEOUT_S) -> None:
        with self._in_turn[node]:
            self.host(node).stop(node.unit, timeout_s=timeout_s)


def _comes(host: Host, ready: str) -> bool:
    """Whether a ready file is there soon. If the connection is lost while the host looks for it, it
    is not there yet: the next call connects again, or says that the host is lost."""
    try:
        return host.exists(ready, within_s=READY_LOOK_S)
    except OutcomeUnknown:
        return False


def clean(host: Host, nodes: Sequence[Node]) -> None:
    """Remove what an earlier run left in the directories of these processes, none of which may run:
    an old ledger, outbox or event log would count as this run's. Keys stay where they were made,
    and so do the files of a flashed board."""
    names = [node.name for node in nodes if node.host == host.name]
    if names:
        host.run(programs.shell("provision/clean.sh", *names))
