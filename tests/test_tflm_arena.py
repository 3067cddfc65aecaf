"""What a model asks of TFLite Micro's arena: predicted, and as TFLM's own interpreter finds it."""

from __future__ import annotations

import ctypes
import importlib.util
import pickle
import random
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from projects import PROBE, read_files, require
from tools import missing
from zoo import SHAPES, fc8, quantized

from mcugen.boards import load_board
from mcugen.ir import Project
from mcugen.lower import lower
from mcugen.plan import plan_memory
from mcugen.resources import data_dir
from mcugen.tflm import arena
from mcugen.tflm.arena import ArenaDemand, arena_demand, recommended
from mcugen.tflm.flatbuffer import write
from mcugen.tflm.lowering import head_bytes, to_tflite
from mcugen.tflm.model import ALIGNMENT, OFFLINE_PLAN, ONLINE, Operator, Tensor, TfliteModel
from mcugen.toolchain import build

HOST = load_board("host")
STANDIN = "tflm/standin"
MODELS = 100  # random ones, in one process

# Each trial in a process of its own: an arena that is far too small is a crash. Then the head and the tail of a large
# arena, as TFLM prints them.
WORKER = """
import ctypes, os, pickle, sys
from tflite_micro import runtime
library, jobs = pickle.load(sys.stdin.buffer)
ctypes.CDLL(runtime._runtime.__file__, mode=ctypes.RTLD_GLOBAL)
ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
def trial(model, size, report):
    child = os.fork()
    if child == 0:
        try:
            interpreter = runtime.Interpreter.from_bytes(model, ["idle_register"], size)
            for _ in range(2):
                interpreter.invoke()
                interpreter.reset()
            if report:
                interpreter.print_allocations()
        except RuntimeError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0
found = []
for model, size in jobs:
    fits = trial(model, size, False), trial(model, size - 16, False)
    print("next", file=sys.stderr, flush=True)
    trial(model, 1 << 20, True)
    found.append(fits)
pickle.dump(found, sys.stdout.buffer)
"""


@pytest.fixture(scope="module")
def idle_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("tflite_micro") is None:
        missing("tflite-micro is not installed")
    folder = data_dir("firmware") / STANDIN
    headers = {f"{STANDIN}/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in folder.rglob("*.h")}
    files = {**headers, **read_files(PROBE, "idle_register.cc")}
    project = Project("idle", HOST, files, ("idle_register.cc",), (STANDIN,), None)
    library = tmp_path_factory.mktemp("idle") / "idle.so"
    library.write_bytes(build(project, require("gcc", HOST), shared=True).image)
    return library


def measure(library: Path, models: list[TfliteModel]) -> list[tuple[bool, bool, int, int]]:
    """Per model: does it run in the predicted arena, and in one of 16 bytes less; head and tail as TFLM has them."""
    jobs = [(write(model), arena_demand(model, 8, recording=True).total) for model in models]
    done = subprocess.run(
        [sys.executable, "-c", WORKER], input=pickle.dumps((str(library), jobs)), capture_output=True, check=True
    )
    reports = done.stderr.decode().split("next\n")[1:]
    sizes = [
        [int(re.findall(rf"allocation {part} (\d+)", text)[-1]) for part in ("head", "tail")] for text in reports
    ]
    return [(*fits, *size) for fits, size in zip(pickle.loads(done.stdout), sizes, strict=True)]


def offline_plan(tensors: list[Tensor], planned: list[bool]) -> tuple[tuple[str, bytes], ...]:
    """One behind the other, those that are planned."""
    offsets, end = [], 0
    for tensor, here in zip(tensors, planned, strict=True):
        offsets.append(end if here else ONLINE)
        end += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT if here else 0
    return ((OFFLINE_PLAN, struct.pack(f"<{3 + len(offsets)}i", 1, 0, len(offsets), *offsets)),)


def random_graph(seed: int) -> TfliteModel:
    """Custom ops and FULLY_CONNECTED, ops without outputs, tensors that nothing reads, every kind of plan."""
    rng = random.Random(seed)
    tensors: list[Tensor] = []
    ops: list[Operator] = []

    def add(dtype: str, *shape: int, **more: object) -> int:
        scale = {"scale": rng.choice((None, 1.0))} if "scale" not in more else {}
        tensors.append(Tensor(f"t{len(tensors)}", dtype, shape, **more, **scale))  # type: ignore[arg-type]
        return len(tensors) - 1

    inputs = [add("int32", rng.randint(1, 9)) for _ in range(rng.randint(1, 3))]
    readable = inputs + [add(rng.choice(("int8", "int16")), rng.randint(1, 700), variable=True)
                         for _ in range(rng.randint(0, 4))]  # fmt: skip
    readable += [add("int8", 8, data=bytes(8)) for _ in range(rng.randint(0, 3))]
    written: list[int] = []
    builtin = rng.choice((0.0, 0.3))
    for _ in range(rng.randint(1, 24)):
        reads = tuple(rng.sample(readable, rng.randint(1, min(4, len(readable)))))
        made = [add("int8", 1, rng.choice((1, 17, 64, 64, 300))) for _ in range(rng.randint(0, 3))]
        if rng.random() < builtin:
            made = [add("int8", 1, 24, scale=1.0)]
            rows = rng.randint(1, 200)
            weights, y = add("int8", rows, 24, data=bytes(24 * rows), scale=0.5), add("int8", 1, rows, scale=2.0)
            ops.append(Operator("IDLE", reads, tuple(made), b"1234"))
            ops.append(Operator("FULLY_CONNECTED", (made[0], weights, -1), (y,)))
            made.append(y)
        else:
            ops.append(Operator("IDLE", reads, tuple(made), rng.choice((b"", b"12345678"))))
        readable += made
        written += made
    outputs = rng.sample(written or inputs, min(rng.randint(1, 2), len(written or inputs)))
    share = rng.choice((0.0, 0.5, 1.0))
    passing = [t.data is None and not t.variable for t in tensors]
    plan = offline_plan(tensors, [here and rng.random() < share for here in passing])
    return TfliteModel(tuple(tensors), tuple(ops), tuple(inputs), tuple(outputs), plan if share else (), "")


def one_fully_connected() -> TfliteModel:
    """So small that the peak is in Prepare, and not in the plan."""
    tensors = (
        Tensor("x", "int8", (1, 16), scale=1.0),
        Tensor("w", "int8", (4, 16), data=bytes(64), scale=0.5),
        Tensor("y", "int8", (1, 4), scale=1.0),
    )
    return TfliteModel(tensors, (Operator("FULLY_CONNECTED", (0, 1, -1), (2,)),), (0,), (2,), (), "")


def test_the_prediction_is_what_tflm_asks_for(idle_library: Path) -> None:
    models = [random_graph(seed) for seed in range(MODELS)] + [one_fully_connected()]
    demands = [arena_demand(model, 8, recording=True) for model in models]
    assert measure(idle_library, models) == [(True, False, demand.head, demand.persistent) for demand in demands]


def idle(model: TfliteModel) -> TfliteModel:
    """The same tensors and nodes, with ops that do nothing."""
    ops = tuple(op if op.builtin else Operator("IDLE", op.inputs, op.outputs, op.options) for op in model.operators)
    return TfliteModel(model.tensors, ops, model.inputs, model.outputs, model.metadata, model.description)


def test_the_prediction_holds_for_generated_models(idle_library: Path) -> None:
    models, heads = [], []
    for shape in SHAPES.values():
        for quantized_model in (quantized(shape), fc8(shape)):
            graph = lower(quantized_model, shape.seq_len, HOST.features)
            plan = plan_memory(graph, HOST, ALIGNMENT)
            models.append(idle(to_tflite(graph, plan, "")))
            heads.append(head_bytes(graph, plan))
    demands = [arena_demand(model, 8, recording=True) for model in models]
    assert [demand.head for demand in demands] == heads
    assert measure(idle_library, models) == [(True, False, demand.head, demand.persistent) for demand in demands]


STRUCTS = {
    name: value for name, value in vars(arena).items() if name.isupper() and isinstance(value, str) and " " in value
}


@pytest.mark.parametrize(("pointer_size", "pointer"), [(4, ctypes.c_uint32), (8, ctypes.c_uint64)])
def test_structs_have_the_size_that_c_gives_them(pointer_size: int, pointer: type) -> None:
    types = {"p": pointer, "i": ctypes.c_int32, "b": ctypes.c_bool}
    for name, fields in STRUCTS.items():
        members = [(f"m{i}", types[field]) for i, field in enumerate(fields.replace(" ", ""))]
        c = type(name, (ctypes.Structure,), {"_fields_": members})
        assert arena._sizeof(fields, pointer_size) == ctypes.sizeof(c), name
    assert len(STRUCTS) == 18


def test_a_model_by_hand() -> None:
    """token -> IDLE -> x (int8[1, 100]) -> FULLY_CONNECTED of 8 rows -> y; a variable of 50 bytes. 32-bit pointers."""
    tensors = (
        Tensor("token", "int32", (1,)),
        Tensor("state", "int8", (50,), variable=True),
        Tensor("x", "int8", (1, 100), scale=1.0),
        Tensor("w", "int8", (8, 100), data=bytes(800), scale=0.5),
        Tensor("y", "int8", (1, 8), scale=1.0),
    )
    ops = (Operator("IDLE", (0, 1), (2,), b"1234"), Operator("FULLY_CONNECTED", (2, 3, -1), (4,)))
    planned = offline_plan(list(tensors), [True, False, True, False, True])
    model = TfliteModel(tensors, ops, (0,), (4,), planned, "")
    head = 16 + 112 + 16
    tail = 36 + 44 + 36 + 8 + 12 + 5 * 12 + 2 * 32  # allocators, planner, subgraph, tensors, nodes
    tail += 32 + 4  # parameters of FULLY_CONNECTED, at a multiple of 8
    tail += 56  # its data, at a multiple of 16
    assert tail == 352
    tail += 64  # the variable
    temporary = 272 + 3 * 40  # 12 requests of 12, an offset of 4, 5 infos of 24: 268; then the three activations
    peak = tail + temporary
    tail += 16 + 40  # of the input: a pointer, at a multiple of 16, and the tensor
    tail += 8 + 40 + 12 + 8  # of the output, too, and its quantisation
    margin, row_sums = 256 + 2 * 12 + 2 * 24 + 32, 8 * 4
    demand = arena_demand(model)
    assert demand == ArenaDemand(head, tail, temporary, 816, margin, row_sums)
    assert peak == 808 > head + tail
    assert recommended(demand, mve=False) == 1184
    assert 1184 - 16 < 816 + margin <= 1184
    assert recommended(demand) == recommended(demand, mve=True) == 1184 + row_sums


def test_the_margin_holds_the_larger_structures(monkeypatch: pytest.MonkeyPatch) -> None:
    models = [random_graph(seed) for seed in range(MODELS)]
    room = [recommended(arena_demand(model), mve=False) for model in models]
    monkeypatch.setattr(arena, "NODE", arena.FULL_NODE)
    monkeypatch.setattr(arena, "TENSOR", arena.FULL_TENSOR)
    monkeypatch.setattr(arena, "FULLY_CONNECTED", arena.CMSIS_NN_FULLY_CONNECTED)
    larger = [arena_demand(model).total for model in models]
    assert all(needed <= there for needed, there in zip(larger, room, strict=True))
    assert larger > [there - 512 for there in room]


def test_the_peak_may_be_in_prepare() -> None:
    demand = arena_demand(one_fully_connected())
    assert demand.temporary == 12 * 12 + 3 * (40 + 12 + 8)  # requests; three tensors with their quantisation
    assert demand.temporary > 224 + 2 * 40  # 12 * 12 + 4 + 3 * 24 is 220; two activations


def test_an_online_head_is_the_greedy_planners() -> None:
    """Falling size, each in the first gap among those that live at the same time."""

    def chain(*sizes: int) -> TfliteModel:
        tensors = tuple(Tensor(f"t{i}", "int8", (1, size)) for i, size in enumerate(sizes))
        ops = tuple(Operator("IDLE", (i,), (i + 1,)) for i in range(len(sizes) - 1))
        return TfliteModel(tensors, ops, (0,), (len(sizes) - 1,), (), "")

    assert arena_demand(chain(16, 16)).head == 32
    assert arena_demand(chain(16, 100, 16)).head == 112 + 16
    assert arena_demand(chain(16, 100, 16, 100, 16)).head == 112 + 16
    assert arena_demand(chain(100, 100, 100)).head == 2 * 112
    assert arena_demand(chain(7)).head == 16


def test_to_json_names_every_part() -> None:
    assert ArenaDemand(1, 2, 3, 4, 5, 6).to_json() == {
        "head": 1, "persistent": 2, "temporary": 3, "total": 4, "margin": 5, "row_sums": 6,
    }  # fmt: skip
